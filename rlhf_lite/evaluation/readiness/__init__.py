"""May this reward model be optimised? The check, its measurements and its verdict."""
