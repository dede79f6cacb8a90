"""The built site: made smaller, and checked in its files and in a browser."""
