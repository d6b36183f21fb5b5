"""Open-world features: unknown photos, families, new classes, audits and advice."""
