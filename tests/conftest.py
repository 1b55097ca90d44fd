"""What every test stands on: no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
