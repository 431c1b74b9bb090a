"""Golden vectors of the engine semantics, and the drill of a library upgrade: see infra/adr/0014."""
