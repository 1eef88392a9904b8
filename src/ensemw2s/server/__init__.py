"""An HTTP server with OpenAI's API over an ensemble; needs the extra ``ensemw2s[serve]``.

``opening`` loads what is served, ``engine`` runs its continuous batch in a thread, ``app`` is the API, and ``running``
starts and stops all of it.
"""
