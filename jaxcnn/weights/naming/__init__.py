"""Names of modules and arrays in torchvision and timm, one function for each family; `jaxcnn.weights.names` joins them.

The argument of each function is a model, whose fields state the number of stages and layers. The result maps module
paths in jaxcnn ("stage1_block1/conv1") to the names in the other library ("layer1.0.conv1"). A key may also be the path
of a single array ("stage1_block1/scale/gamma"), whose value is the full name of the array in the other library. The
result may contain modules that some variants of the model lack.
"""

Names = dict[str, str]
