"""The HTTP and WebSocket interface: `sc-runtime serve`. Needs the extra `serve`.

`app.create_app` makes the application, `server.make_server` serves it, `ray` deploys it on Ray Serve.
"""
