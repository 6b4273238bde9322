"""How each artifact type is stored and what the dashboard shows of it. No pickle anywhere."""
