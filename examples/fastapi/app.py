"""FastAPI with the service inside, and the React page beside: `npm run build && uvicorn app:app`."""

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import tidings

predictions = tidings.asgi()  # settings come from TIDINGS_... and tidings.toml
app = FastAPI(lifespan=predictions.lifespan)
app.mount("/predictions", predictions)
app.mount("/", StaticFiles(directory="dist", html=True, check_dir=False))
