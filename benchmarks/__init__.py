"""Side-by-side measurements; each prints one JSON object."""
