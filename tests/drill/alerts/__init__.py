"""Faults are caused on a running stack; their alerts must fire, reach the pagers, and end by the runbooks' own commands."""
