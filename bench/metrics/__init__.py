"""Request records -> figures: every formula, unit and check in one place. Knows no clock, socket or output."""
