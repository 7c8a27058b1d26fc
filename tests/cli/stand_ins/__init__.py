"""A broker and an api that only start, get ready and end; put before the real ones on the path."""
