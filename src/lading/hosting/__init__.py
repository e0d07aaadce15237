"""TensorRT-LLM engines that are built here: what a build is asked for, what builds it, and building it whole."""
