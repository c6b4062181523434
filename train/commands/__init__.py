"""Commands on finished runs, results and model files."""
