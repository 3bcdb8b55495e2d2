global
    # Orbit speaks to HAProxy through this socket.
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    # Processes of before a reload end at the latest after this time.
    hard-stop-after 30s

defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    # A request that finds its server gone is sent to another one.
    retries 3
    option redispatch

frontend http
    bind 127.0.0.1:8080
    use_backend clock if { path /clock }
    default_backend web

backend web
    balance roundrobin
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }} check inter 500ms
    {% endfor %}

backend clock
    {% for e in endpoints("clock") -%}
    server {{ e.name }} {{ e.address }} check inter 500ms
    {% endfor %}
