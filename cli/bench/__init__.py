"""What measures a server."""
