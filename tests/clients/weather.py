"""The weather of a city as a pydantic model, for the clients that take one. It has no open end."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Weather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Lyon", "Nice"]
    unit: Literal["C", "F"]
