"""HTTP: the app factory, its routes, and what they take and give."""

from mcdropout.api.app import create_app as create_app
