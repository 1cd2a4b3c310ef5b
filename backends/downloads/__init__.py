"""Models from a hub: found, chosen, fetched, checked, deleted. For the manager alone."""
