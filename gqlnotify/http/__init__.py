"""GraphQL over HTTP: single results, SSE and multipart."""
