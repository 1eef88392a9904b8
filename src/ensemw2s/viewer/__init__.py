"""The viewer of answers, token by token: what the report's page and the served page have in common.

``assets/viewer.js`` shows one answer (see there), ``viewer.css`` dresses it, ``page.css`` is every page's look. Whoever
makes a page reads them with ``assets.asset``; nothing is ever fetched from elsewhere.
"""
