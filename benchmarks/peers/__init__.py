"""Compare jaxcnn with baselines: the same network, batch and dtype in other libraries.

    python -m benchmarks.peers [--models lenet5,resnet20_cifar] [--columns train-float32,inference-float32-1] [--here]

A column is a training step or a forward pass, in one dtype, for one batch size. For example, for the whole table of a
model:

    python -m benchmarks.peers --models resnet50 --columns \
        train-float32,train-bfloat16,inference-float32-1,inference-float32-8,inference-bfloat16-1

Training steps have the same optimizer in all libraries, and each baseline follows the guide or example of its library.
Forward passes are those of a trained network, here with random weights: frozen and unfrozen jaxcnn, torch, compiled
torch, and ONNX Runtime and OpenVINO, which read the ONNX file that `jaxcnn.export` makes of the same network.

Each library runs in its own process and Python environment. The processes take turns of about one second, round after
round, so that other work on the machine affects all of them. Ratios of times are medians over the rounds. Do not run
anything else on the machine.
"""
