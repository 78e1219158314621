"""HTTP: the services put together, the app around them, its routes, and what they take and give."""

from mcdropout.api.app import create_app as create_app
from mcdropout.api.services import Services as Services
