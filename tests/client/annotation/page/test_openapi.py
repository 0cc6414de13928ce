"""No input that the API's own description leads to makes the server fail."""

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running_page import RunningPage
from schemathesis import Case, GenerationMode

from client.annotation.page.app import make_app
from client.store.scans import list_scans

EXAMPLES = 8


def description(page: RunningPage) -> dict[str, Any]:
    """The app's OpenAPI, with scans that are there: made up, none would ever be found."""
    found = make_app(page.desk).openapi()
    known = [scan.scan_id for scan in list_scans(page.store)][:2]
    for operations in found["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "scan_id":
                    parameter["schema"] = {"enum": [*known, "scan-0123456789abcdef", "scan"]}
    return found


def test_every_part_of_the_api_is_described(page: RunningPage) -> None:
    paths = description(page)["paths"]
    assert {(path, method) for path, one in paths.items() for method in one} == {
        ("/api/me", "get"),
        ("/api/worklist", "get"),
        ("/api/scans/{scan_id}", "get"),
        ("/api/scans/{scan_id}/claim", "post"),
        ("/api/scans/{scan_id}/claim", "delete"),
        ("/api/scans/{scan_id}/slices/{index}", "get"),
        ("/api/scans/{scan_id}/drafts/{index}", "get"),
        ("/api/scans/{scan_id}/drafts/{index}", "put"),
        ("/api/scans/{scan_id}/drafts/{index}", "delete"),
        ("/api/scans/{scan_id}/submit", "post"),
        ("/api/scans/{scan_id}/versions/{index}", "get"),
        ("/api/scans/{scan_id}/versions/{index}/{version}", "get"),
        ("/api/scans/{scan_id}/review", "get"),
        ("/api/scans/{scan_id}/review/{axis}/{index}", "get"),
        ("/api/scans/{scan_id}/verdict", "post"),
        ("/api/scans/{scan_id}/ask", "post"),
    }


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_makes_the_server_fail(page: RunningPage, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(description(page))
    statuses: dict[str, set[int]] = {}
    with page.client() as client, requests.Session() as session:
        session.headers["X-OneSlice"] = "1"
        session.cookies.update(dict(client.cookies))
        for found in schema.get_all_operations():
            operation = found.ok()
            if mode is GenerationMode.NEGATIVE and operation.label == "GET /api/me":
                continue  # it takes nothing that could be wrong

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Case) -> None:
                response = case.call(base_url=page.base_url, session=session)
                statuses.setdefault(case.operation.label, set()).add(response.status_code)
                assert response.status_code < 500, case.as_curl_command()

            ask()
        assert client.get("/api/me").status_code == 200
    seen = set().union(*statuses.values())
    assert 401 not in seen
    assert 403 not in seen
    assert len(statuses) >= 15
    assert ({200, 404, 422} if mode is GenerationMode.POSITIVE else {422}) <= seen
