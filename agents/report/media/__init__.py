"""Pictures of an environment: videos, and a live view."""
