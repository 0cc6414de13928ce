"""The clinician's page: a server on the hospital's own machine, for people with a link."""
