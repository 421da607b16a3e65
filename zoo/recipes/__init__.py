"""Recipes: one TOML file a model, what they cost, and the pipeline that retrains the zoo from them."""
