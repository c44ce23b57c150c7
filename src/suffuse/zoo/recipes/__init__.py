"""How the bundled models were trained: one file a model, each with `build(folder, ...)`, resumable, on CPU or GPU."""
