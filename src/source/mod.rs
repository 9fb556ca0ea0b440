//! Where a model comes from. [`ModelSource`] hides whether it is a folder of safetensors or another container.
