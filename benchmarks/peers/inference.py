"""A forward pass of a trained network. The task has a `library`, and an ONNX `file` for those that read one."""

# The type checker's environment does not contain these libraries.
# pyright: reportMissingImports=false

import task as common


def build(task):
    images = common.batch(task)[0].astype("float32") / 127.5 - 1
    forward, wait, versions = LIBRARIES[task["library"]](task, images)
    return forward, wait, {"versions": versions, "device_kind": "cpu"}


def jaxcnn(task, images):
    import jax
    from ours import VARIANTS

    from jaxcnn import startup
    from jaxcnn.export import freeze
    from jaxcnn.models import create_model

    startup.settle(images.size)
    name, options = VARIANTS.get(task["model"], (task["model"], {}))
    model = create_model(name, **options)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
    dtype = None if task["dtype"] == "float32" else task["dtype"]
    if task["frozen"]:
        forward = jax.jit(freeze(model, variables, dtype=dtype))
    else:
        cast = model.clone(dtype=dtype)
        forward = jax.jit(lambda x: cast.apply(variables, x, train=False))
    placed = jax.device_put(images)
    return lambda: forward(placed), lambda logits: float(logits[0, 0]), f"jax {jax.__version__}"


def torch(task, images):
    import torch
    from pytorch import network

    model = network(task["model"]).to(memory_format=torch.channels_last).eval()
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    dtype = getattr(torch, task["dtype"])
    compiled = torch.compile(model) if task["compile"] else model

    def forward():
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return compiled(x)

    return forward, lambda logits: float(logits[0, 0]), f"torch {torch.__version__}"


def onnxruntime(task, images):
    import onnxruntime

    if task["dtype"] != "float32":  # its kernels for a CPU
        raise NotImplementedError(f"no {task['dtype']}")
    session = onnxruntime.InferenceSession(task["file"], providers=["CPUExecutionProvider"])
    return (
        lambda: session.run(None, {"images": images})[0],
        lambda logits: float(logits[0, 0]),
        f"onnxruntime {onnxruntime.__version__}",
    )


def openvino(task, images):
    import openvino

    precision = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[task["dtype"]]
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(task["file"], "CPU", options)
    request = compiled.create_infer_request()
    return (
        lambda: request.infer({"images": images})[0],
        lambda logits: float(logits[0, 0]),
        f"openvino {openvino.__version__}",
    )


LIBRARIES = {"jaxcnn": jaxcnn, "torch": torch, "onnxruntime": onnxruntime, "openvino": openvino}
