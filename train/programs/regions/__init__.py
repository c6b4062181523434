"""Linear regions, counted along lines and drawn on a plane."""
