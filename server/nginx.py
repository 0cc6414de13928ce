"""The reverse proxy's configuration: hospitals reach twelve paths of the SuperLink and no more.

Flower's control side asks for no password in its open version, so whoever reaches it can send code
to every hospital. It listens on loopback, and this configuration passes nothing of it on: each
path is matched whole, after nginx has resolved dots and escapes, and the SuperLink is asked for the
same fixed path, never for the text that came.
"""

import os
import pwd
from pathlib import Path

from common.errors import SettingsError
from common.whole_file import write_whole
from server.consortium import Consortium

# flwr/supernode/fleet_http_client.py: all that a SuperNode asks for.
FLEET = (
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)

# 100 MB of weights are 20 pieces of 5 MB, and hospitals may share one address behind a firewall.
SITE = """\
map $status $is_refused {{ ~^[23] 0; default 1; }}
limit_conn_zone $binary_remote_addr zone=oneslice_connections:10m;
limit_req_zone $binary_remote_addr zone=oneslice_requests:10m rate=200r/s;

server {{
{listen}
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:oneslice_tls:4m;
    ssl_session_tickets off;

    server_tokens off;
    default_type text/plain;
    merge_slashes off;
    client_max_body_size 16m;
    client_body_buffer_size 512k;
    client_header_timeout 20s;
    client_body_timeout 60s;
    send_timeout 60s;
    keepalive_timeout 75s;
    limit_conn oneslice_connections 256;
    limit_conn_status 429;
    limit_req zone=oneslice_requests burst=1000 nodelay;
    limit_req_status 429;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_ssl_verify on;
    proxy_ssl_verify_depth 1;
    proxy_ssl_trusted_certificate {authority};
    proxy_ssl_name localhost;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_connect_timeout 5s;
    proxy_send_timeout 60s;
    proxy_read_timeout 120s;

    error_page 502 504 =503 @away;
    location @away {{ return 503 "the coordinator's SuperLink does not answer\\n"; }}

{locations}
    location / {{ return 403 "hospitals reach the fleet paths only\\n"; }}
}}
"""

LOCATION = """\
    location = /v1/fleet/{name} {{
        limit_except POST {{ deny all; }}
        proxy_pass https://127.0.0.1:{port}/v1/fleet/{name};
    }}
"""

WHOLE = """\
# Written by `oneslice coordinator up`; changes are lost. Settings belong into consortium.toml.
daemon off;
{user}worker_processes 2;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
log_format refused '$time_iso8601 $remote_addr "$request" $status $request_time s';
access_log /dev/stdout refused if=$is_refused;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;

{site}}}
"""


def site_settings(consortium: Consortium) -> str:
    """What belongs into the `http` part of an nginx that somebody runs themselves.

    Raises:
        SettingsError: the folder's name cannot stand in a configuration of nginx.
    """
    settings = consortium.read_settings()
    listen = [f"    listen {settings.port} ssl;"]
    if _has_ipv6():
        listen.append(f"    listen [::]:{settings.port} ssl;")
    return SITE.format(
        listen="\n".join(listen),
        certificate=_quoted(consortium.server_certificate),
        key=_quoted(consortium.server_key),
        authority=_quoted(consortium.ca_certificate),
        locations="".join(
            LOCATION.format(name=name, port=settings.superlink_port) for name in FLEET
        ),
    )


def write_nginx_settings(consortium: Consortium) -> Path:
    """The configuration for the nginx that `coordinator up` runs; its folder is made.

    Raises:
        SettingsError: the folder's name cannot stand in a configuration of nginx.
    """
    path = consortium.nginx_settings
    path.parent.mkdir(parents=True, exist_ok=True)
    # As root, nginx would work as `nobody`, who may not enter the consortium's folder.
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    write_whole(path, WHOLE.format(user=user, site=site_settings(consortium)))
    return path


def nginx_command(consortium: Consortium, program: str) -> tuple[str, ...]:
    """How nginx is started; relative paths in its configuration are below the prefix."""
    folder = consortium.nginx_settings.parent.resolve()
    return (program, "-p", f"{folder}/", "-e", "stderr", "-c", str(folder / "nginx.conf"))


def _quoted(path: Path) -> str:
    text = str(path.resolve())
    if any(letter in text for letter in '"\\$\n'):
        raise SettingsError(
            f"expected a folder whose name nginx can be told, without quotes, backslashes and $, "
            f"got {text}: move the consortium's folder"
        )
    return f'"{text}"'


def _has_ipv6() -> bool:
    try:
        return bool(Path("/proc/net/if_inet6").read_text(encoding="ascii").strip())
    except OSError:
        return False
