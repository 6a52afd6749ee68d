"""How far a sweep is."""

PLAN_NAME = "plan.json"
PLAN_SCHEMA = "isoflop.plan/1"
HEARTBEAT_NAME = "progress.json"
HEARTBEAT_SCHEMA = "isoflop.progress/1"
