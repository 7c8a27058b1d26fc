"""Coding agents with a model of a server."""
