"""Precision: is training in bfloat16 as accurate as in float32, and are its gradients no worse than torch's?

python -m benchmarks.precision.accuracy     test accuracy of networks that differ in dtype and seed
python -m benchmarks.precision.gradients    error of bfloat16 gradients, compared with torch's
"""
