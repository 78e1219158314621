"""The service under load, against LitServe and FastAPI, on the same cores as the clients."""
