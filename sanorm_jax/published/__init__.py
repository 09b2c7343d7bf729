"""Published models: writing them from runs, listing them, and evaluating them anew."""
