"""Whether events cost more when there are many already: processing, claims, reading one, and every list."""
