"""Names of modules and arrays in torchvision and timm, one function for each family; `jaxcnn.weights.names` joins them.

A function takes a model, whose fields give the number of stages and layers. It returns a dict from our module paths
("stage1_block1/conv1") to the names in the other library ("layer1.0.conv1"). A longer path is that of one array
("stage1_block1/scale/gamma"), and stands for its whole name there. The dict may contain modules that a variant lacks.
"""

Names = dict[str, str]
