"""The built-in world: graded question families, the text models are pretrained on, and the recipe."""
