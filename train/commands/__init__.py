"""Commands on what is finished: runs, results and model files."""
