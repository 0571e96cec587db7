"""All measurements of one machine with a GPU or TPU, most important first, within a time limit.

    python -m benchmarks.gpu [--seconds 480] [--parts correctness,resnet50,...] [--tiny] [--out DIR]

Parts:
  correctness  one training step against the step on this machine's CPU, in all ways to distribute it, by dtype
  resnet50     ResNet-50 in bfloat16 with three batch sizes, in turns with torch, compiled, channels last
  speedrun     the recipe for 94 % on CIFAR-10, on the images that $CIFAR10 names, or on synthetic ones
  sweep        several models and batch sizes, in bfloat16 and float32
  many         1, 10 and 100 networks at once
  peers        other models in turns with torch and plain Flax
  spread       all ways to distribute a step: pmap, shard_map and jit
  dispatch     one and several steps per call of the compiled program
  xla          presets of XLA's options on ResNet-50

Each part gets a fraction of the time that is left, and leaves what it does not need to those after it. A part that
fails does not stop the next one. Each writes its results to a folder of its own in `--out`, and `summary.md` there has
the status and the table of every part. The exit status is 1 if a part failed.

Requires jax, flax, optax, orbax-checkpoint, rich and numpy. torch and torchvision are measured if they are installed.
`--tiny` runs small versions of all parts, to test the scripts on a CPU.

This process never starts JAX: it would reserve most of the GPU's memory, which the processes of the parts need.
"""
