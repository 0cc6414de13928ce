"""What the page asks of the server, from the first look to the last verdict."""

import numpy as np
import pytest
from running_page import RunningPage, wait_for

from client.annotation.annotator import asked_slices
from client.local_round import Hospital
from client.store.annotations import latest_annotations
from client.store.arrays import load_array
from client.store.label_maps import load_label_map
from client.store.scans import CatalogScan, find_scan, load_scan, scans_as_they_came

ROWS, COLUMNS, DEPTH = 24, 24, 16


@pytest.fixture
def scan(page: RunningPage) -> CatalogScan:
    """The first scan of the first task."""
    return scans_as_they_came(page.store, "first")[0]


def block(value: int = 1, first: int = 6) -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[first : first + 8, 5:15] = value
    return mask


def save(client, scan_id: str, index: int, mask: np.ndarray, version: int, seconds: float = 3.0):
    return client.put(
        f"/api/scans/{scan_id}/drafts/{index}",
        params={"version": version, "seconds": seconds},
        content=mask.tobytes(),
    )


def submit(client, scan_id: str, **body: object):
    return client.post(f"/api/scans/{scan_id}/submit", json={"seconds": 9.0, **body})


def paint(client, scan_id: str, index: int, mask: np.ndarray) -> None:
    assert save(client, scan_id, index, mask, 0).json() == {"version": 1}
    assert submit(client, scan_id, index=index, version=1).status_code == 200


# Looking -----------------------------------------------------------------------------------------


def test_the_front_page_and_its_parts_are_served(page: RunningPage) -> None:
    with page.client() as client:
        front = client.get("/")
        assert front.status_code == 200
        assert "text/html" in front.headers["content-type"]
        script = client.get("/static/api.js")
        assert "javascript" in script.headers["content-type"]


def test_one_is_told_who_one_is_and_what_is_painted(page: RunningPage) -> None:
    with page.client("ben") as client:
        me = client.get("/api/me").json()
    assert (me["hospital"], me["annotator"]) == ("north", "ben")
    assert [(task["name"], task["plane"], task["axis"]) for task in me["tasks"]] == [
        ("first", "axial", 2),
        ("second", "axial", 2),
    ]
    assert me["tasks"][1]["classes"] == [{"index": 2, "name": "lesion", "colour": "#d95f02"}]


def test_a_page_of_one_task_shows_no_other(make_hospital, make_plan, start_page) -> None:
    hospital: Hospital = make_hospital()
    page: RunningPage = start_page(hospital.store, make_plan(), "second")
    other = scans_as_they_came(page.store, "first")[0]
    with page.client() as client:
        assert [task["name"] for task in client.get("/api/me").json()["tasks"]] == ["second"]
        assert client.get("/api/worklist").json()["total"] == 3
        assert client.get("/api/worklist", params={"task": "first"}).status_code == 422
        assert client.get(f"/api/scans/{other.scan_id}").status_code == 404


def test_the_worklist_asks_for_the_plans_slices(page: RunningPage) -> None:
    wanted = [
        (ref.scan_id, ref.index)
        for task in page.plan.tasks
        for ref in asked_slices(page.store, page.plan, task)
    ]
    with page.client() as client:
        found = client.get("/api/worklist").json()
        assert sorted((row["scan_id"], row["index"]) for row in found["rows"]) == sorted(wanted)
        assert found["counts"]["asked"] == found["total"] == 6
        for wrong in ({"task": "third"}, {"state": "lost"}, {"limit": 0}, {"offset": -1}):
            assert client.get("/api/worklist", params=wrong).status_code == 422


def test_a_scan_is_described_for_the_editor(page: RunningPage, scan: CatalogScan) -> None:
    (asked,) = [
        ref.index
        for ref in asked_slices(page.store, page.plan, page.plan.tasks[0])
        if ref.scan_id == scan.scan_id
    ]
    with page.client() as client:
        found = client.get(f"/api/scans/{scan.scan_id}").json()
    assert (found["depth"], found["rows"], found["columns"]) == (DEPTH, ROWS, COLUMNS)
    assert (found["row_mm"], found["column_mm"], found["slice_mm"]) == (1, 1, 1)
    assert (found["axis"], found["asked_index"], found["state"]) == (2, asked, "asked")
    assert found["display"]["unit"] == "grey"
    assert [preset["name"] for preset in found["presets"]] == ["contrast", "full"]
    assert (found["least"], found["most"]) == (0, 32767)
    assert (found["painted"], found["drafts"]) == ([], [])


def test_the_most_typical_slice_is_found_when_a_scan_is_opened(
    make_hospital, make_plan, start_page
) -> None:
    plan = make_plan(annotation={"slice_choice": "representative", "scans": 2})
    page: RunningPage = start_page(make_hospital().store, plan)
    wanted = {ref.scan_id: ref.index for ref in asked_slices(page.store, plan, plan.tasks[0])}
    with page.client() as client:
        for scan in scans_as_they_came(page.store, "first"):
            found = client.get(f"/api/scans/{scan.scan_id}").json()["asked_index"]
            assert found == wanted.get(scan.scan_id), "none of the third scan"
        first = next(iter(wanted))
        paint(client, first, 3, block())
        assert client.get(f"/api/scans/{first}").json()["asked_index"] is None


def test_slices_are_the_stored_numbers(page: RunningPage, scan: CatalogScan) -> None:
    stack = load_array(page.store, scan.display_key)
    with page.client() as client:
        for index in (0, 7, DEPTH - 1):
            answer = client.get(f"/api/scans/{scan.scan_id}/slices/{index}")
            pixels = np.frombuffer(answer.content, "<i2").reshape(ROWS, COLUMNS)
            np.testing.assert_array_equal(pixels, stack[index])
        for wrong in (-1, DEPTH, 2**70):
            assert client.get(f"/api/scans/{scan.scan_id}/slices/{wrong}").status_code == 404
        assert client.get(f"/api/scans/{scan.scan_id}/slices/x").status_code == 422


def test_a_claim_is_refused_to_others_with_its_holder(page: RunningPage, scan: CatalogScan) -> None:
    path = f"/api/scans/{scan.scan_id}/claim"
    with page.client("anna") as anna, page.client("ben") as ben:
        assert anna.post(path).json()["claimed_by"] == "anna"
        refused = ben.post(path)
        assert refused.status_code == 409
        assert refused.json()["claimed_by"] == "anna"
        assert refused.json()["claim_left_s"] == pytest.approx(900, abs=60)
        assert ben.delete(path).status_code == 200
        assert ben.post(path).status_code == 409, "only its holder gives it up"
        rows = ben.get("/api/worklist").json()["rows"]
        assert [row["scan_id"] for row in rows if row["claimed_by"]] == [scan.scan_id]
        assert anna.delete(path).json() == {}
        assert ben.post(path).status_code == 200


# Painting ----------------------------------------------------------------------------------------


def test_strokes_are_saved_and_come_back(page: RunningPage, scan: CatalogScan) -> None:
    path = f"/api/scans/{scan.scan_id}/drafts/5"
    with page.client() as client:
        assert client.get(path).status_code == 404
        for version in range(3):
            assert save(client, scan.scan_id, 5, block(first=version), version, 1.5).json() == {
                "version": version + 1
            }
        back = client.get(path)
        assert back.content == block(first=2).tobytes()
        assert (back.headers["x-version"], back.headers["x-seconds"]) == ("3", "1.5")
        listed = client.get(f"/api/scans/{scan.scan_id}").json()
        assert [(one["index"], one["version"]) for one in listed["drafts"]] == [(5, 3)]
        assert listed["state"] == "drafted"
    with page.client("ben") as other:
        assert other.get(path).status_code == 404, "drafts are one's own"
    with page.client() as client:
        assert client.get(path).headers["x-version"] == "3", "a new session goes on"
        assert client.delete(path).json() == {}
        assert client.get(path).status_code == 404


def test_a_stroke_on_an_old_version_is_refused_with_the_newest(
    page: RunningPage, scan: CatalogScan
) -> None:
    with page.client() as client:
        for version in range(2):
            save(client, scan.scan_id, 5, block(), version)
        refused = save(client, scan.scan_id, 5, block(first=1), 1)
        assert refused.status_code == 409
        assert refused.json()["version"] == 2
        back = client.get(f"/api/scans/{scan.scan_id}/drafts/5")
        assert back.content == block().tobytes()


def test_masks_that_do_not_fit_are_refused(page: RunningPage, scan: CatalogScan) -> None:
    path, query = f"/api/scans/{scan.scan_id}/drafts/5", {"version": 0, "seconds": 1}
    whole = block().tobytes()
    with page.client() as client:
        cases = [
            (b"", 422, "0 came"),
            (whole[:-1], 422, "575 came"),
            (whole + b"\0", 413, "more came"),
            (whole * 1000, 413, "more came"),
            (block(2).tobytes(), 422, r"the mask holds [2]"),
            (bytes([255]) * len(whole), 422, r"the mask holds [255]"),
        ]
        for body, status, words in cases:
            refused = client.put(path, params=query, content=body)
            assert (refused.status_code, words in refused.json()["error"]) == (status, True)
        for wrong in (
            {"version": -1, "seconds": 1},
            {"version": 0, "seconds": -1},
            {"version": 0, "seconds": "nan"},
            {"version": 0, "seconds": "inf"},
            {"version": 2**80, "seconds": 1},
            {"version": 0},
            {"version": 0, "seconds": 1, "annotator": "ben"},
        ):
            assert client.put(path, params=wrong, content=whole).status_code == 422, wrong
        assert (
            client.put(path.replace("/5", f"/{DEPTH}"), params=query, content=whole).status_code
            == 404
        )
        assert client.get(path).status_code == 404, "nothing was saved"


def test_a_submitted_slice_is_the_painted_one_exactly(page: RunningPage, scan: CatalogScan) -> None:
    mask = (np.random.default_rng(0).random((ROWS, COLUMNS)) < 0.3).astype(np.uint8)
    with page.client() as client:
        save(client, scan.scan_id, 5, block(), 0)
        save(client, scan.scan_id, 5, mask, 1)
        assert submit(client, scan.scan_id, index=5, version=2).json() == {"version": 1}
        assert client.get(f"/api/scans/{scan.scan_id}/drafts/5").status_code == 404
        listed = client.get(f"/api/scans/{scan.scan_id}").json()
        assert [(one["index"], one["annotator"]) for one in listed["painted"]] == [(5, "anna")]
        assert listed["asked_index"] is None
    (found,) = latest_annotations(page.store, scan.scan_id)
    np.testing.assert_array_equal(found.mask, mask)
    assert (found.ref.axis, found.ref.index, found.looked_for) == (2, 5, (1,))
    assert (found.annotator, found.seconds_spent) == ("anna", 9.0)


def test_submissions_that_cannot_be_meant_are_refused(page: RunningPage, scan: CatalogScan) -> None:
    with page.client() as client:
        save(client, scan.scan_id, 5, block(), 0)
        save(client, scan.scan_id, 6, block(0), 0)
        cases = [
            ({"index": 5, "version": 0}, 409),
            ({"index": 5, "version": 2}, 409),
            ({"index": 5, "version": 1, "nothing_here": True}, 422),
            ({"index": 6, "version": 1}, 422),
            ({"index": 7, "version": 0}, 422),
            ({"index": 7, "version": 1}, 409),
            ({"index": DEPTH, "version": 1}, 404),
            ({"index": 5, "version": 1, "seconds": -1}, 422),
            ({"index": 5, "version": 1, "annotator": "ben"}, 422),
            ({"version": 1}, 422),
        ]
        for body, status in cases:
            assert submit(client, scan.scan_id, **body).status_code == status, body
        for text in ("", "{", "[]", "null", "[" * 20_000, '{"index": 5, "version": NaN}'):
            answer = client.post(
                f"/api/scans/{scan.scan_id}/submit",
                content=text,
                headers={"Content-Type": "application/json"},
            )
            assert answer.status_code in (400, 422), text[:20]
    assert latest_annotations(page.store, scan.scan_id) == []


def test_nothing_here_is_an_annotation(page: RunningPage, scan: CatalogScan) -> None:
    with page.client() as client:
        save(client, scan.scan_id, 6, block(0), 0)
        for index, version in ((6, 1), (7, 0)):
            answer = submit(client, scan.scan_id, index=index, version=version, nothing_here=True)
            assert answer.json() == {"version": 1}
    found = latest_annotations(page.store, scan.scan_id)
    assert [(one.ref.index, bool(one.mask.any())) for one in found] == [(6, False), (7, False)]


def test_all_versions_and_annotators_are_kept_and_compared(
    page: RunningPage, scan: CatalogScan
) -> None:
    path = f"/api/scans/{scan.scan_id}/versions/5"
    with page.client("anna") as anna, page.client("ben") as ben:
        paint(anna, scan.scan_id, 5, block(first=0))
        paint(anna, scan.scan_id, 5, block(first=6))
        paint(ben, scan.scan_id, 5, block(first=10))
        found = ben.get(path).json()
        assert [(one["version"], one["annotator"]) for one in found["versions"]] == [
            (1, "anna"),
            (2, "anna"),
            (3, "ben"),
        ]
        assert found["versions"][0]["present"] == [1]
        # Rows 6 to 13 and 10 to 17 share 10 to 13: half of each.
        assert found["agreement"] == [
            {"one": "anna", "other": "ben", "dice": {"1": 0.5}, "mean": 0.5}
        ]
        assert ben.get(f"{path}/1").content == block(first=0).tobytes()
        assert ben.get(f"{path}/4").status_code == 404
        assert ben.get(f"{path}/{2**70}").status_code == 404
        assert ben.get(path.replace("/5", "/6")).json() == {"versions": [], "agreement": []}


# Reviewing ---------------------------------------------------------------------------------------


def is_ready(review: dict[str, object]) -> bool:
    return review["ready"] is True


def is_over(review: dict[str, object]) -> bool:
    return review["update"]["state"] in ("none", "done", "failed")  # type: ignore[index]


def test_a_scan_without_a_painted_slice_has_no_review(page: RunningPage, scan: CatalogScan) -> None:
    with page.client() as client:
        for path in ("review", "review/2/5"):
            answer = client.get(f"/api/scans/{scan.scan_id}/{path}")
            assert answer.status_code == 409
            assert "paint and submit one first" in answer.json()["error"]
        verdict = client.post(f"/api/scans/{scan.scan_id}/verdict", json={"verdict": "accepted"})
        assert verdict.status_code == 409


def test_the_label_is_spread_and_shown_as_the_label_engine_made_it(
    page: RunningPage, scan: CatalogScan
) -> None:
    with page.client() as client:
        paint(client, scan.scan_id, 5, block())
        review = wait_for(client, scan.scan_id, is_ready)
        assert (review["source"], review["dims"]) == ("propagated", [ROWS, COLUMNS, DEPTH])
        assert review["painted"] == [{"axis": 2, "index": 5}]
        labels = load_label_map(page.store, scan.scan_id, page.plan.federation)
        hard = labels.hard()
        assert review["volumes_ml"] == {"1": round(int((hard == 1).sum()) / 1000, 3)}
        i, j, k = review["centre"]  # type: ignore[misc]
        assert k == 5
        assert block()[i, j] == 1
        volume = np.moveaxis(load_array(page.store, scan.display_key), 0, 2)
        for axis, index in ((0, 9), (1, 11), (2, 5), (2, 9)):
            answer = client.get(
                f"/api/scans/{scan.scan_id}/review/{axis}/{index}",
                params={"digest": review["digest"]},
            )
            plane = np.take(volume, index, axis)
            image = np.frombuffer(answer.content, "<i2", plane.size).reshape(plane.shape)
            rest = np.frombuffer(answer.content, np.uint8, offset=2 * plane.size)
            shown, confidence = rest.reshape(2, *plane.shape)
            np.testing.assert_array_equal(image, plane)
            np.testing.assert_array_equal(shown, np.take(hard, index, axis))
            sure = np.take(np.asarray(labels.soft, dtype=np.float32).max(0), index, axis)
            np.testing.assert_array_equal(confidence, np.rint(255 * sure))
        np.testing.assert_array_equal(shown.shape, (ROWS, COLUMNS))


def test_the_painted_slice_is_shown_exactly_and_certain(
    page: RunningPage, scan: CatalogScan
) -> None:
    with page.client() as client:
        paint(client, scan.scan_id, 5, block())
        wait_for(client, scan.scan_id, is_ready)
        content = client.get(f"/api/scans/{scan.scan_id}/review/2/5").content
    labels, confidence = np.frombuffer(content, np.uint8, offset=2 * ROWS * COLUMNS).reshape(
        2, ROWS, COLUMNS
    )
    np.testing.assert_array_equal(labels, block())
    assert (confidence == 255).all()


def test_without_a_model_the_review_says_so(page: RunningPage, scan: CatalogScan) -> None:
    with page.client() as client:
        paint(client, scan.scan_id, 5, block())
        review = wait_for(client, scan.scan_id, is_over)
    assert review["ready"] is True
    assert review["suggestion"] is None
    assert review["update"]["state"] == "none"  # type: ignore[index]
    assert "No model yet" in review["update"]["sentence"]  # type: ignore[index]


def test_painting_more_makes_another_volume(page: RunningPage, scan: CatalogScan) -> None:
    with page.client() as client:
        paint(client, scan.scan_id, 5, block())
        first = wait_for(client, scan.scan_id, is_over)
        paint(client, scan.scan_id, 9, block())
        second = wait_for(client, scan.scan_id, is_over)
        assert second["digest"] != first["digest"]
        assert second["painted"] == [{"axis": 2, "index": 5}, {"axis": 2, "index": 9}]
        path = f"/api/scans/{scan.scan_id}/review/2/9"
        stale = client.get(path, params={"digest": first["digest"]})
        assert stale.status_code == 409
        assert stale.json()["digest"] == second["digest"]
        assert client.get(path, params={"digest": second["digest"]}).status_code == 200


def test_a_scan_that_was_painted_before_the_page_started_can_be_reviewed(
    make_hospital, make_plan, start_page, paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    page: RunningPage = start_page(hospital.store, plan)
    with page.client() as client:
        rows = client.get("/api/worklist", params={"state": "painted"}).json()["rows"]
        assert len(rows) == 3
        for row in rows:
            assert wait_for(client, row["scan_id"], is_ready)["source"] == "propagated"


def test_verdicts_decide_the_state(page: RunningPage, scan: CatalogScan) -> None:
    path = f"/api/scans/{scan.scan_id}/verdict"
    with page.client() as client:
        paint(client, scan.scan_id, 5, block())
        assert client.post(path, json={"verdict": "accepted"}).json() == {"state": "accepted"}
        assert wait_for(client, scan.scan_id, is_ready)["verdict"] == "accepted"
        flag = {"verdict": "flagged", "reason": "a second organ\nis in the way"}
        assert client.post(path, json=flag).json() == {"state": "flagged"}
        for wrong in (
            {"verdict": "flagged"},
            {"verdict": "flagged", "reason": "  "},
            {"verdict": "flagged", "reason": "x" * 501},
            {"verdict": "flagged", "reason": "\u0000"},
            {"verdict": "lovely"},
            {},
        ):
            assert client.post(path, json=wrong).status_code == 422, wrong
        surrogate = b'{"verdict": "flagged", "reason": "\\ud800"}'
        json = {"Content-Type": "application/json"}
        assert client.post(path, content=surrogate, headers=json).status_code == 422
        assert client.get(f"/api/scans/{scan.scan_id}").json()["state"] == "flagged"


def test_any_slice_that_is_there_can_be_asked_for(page: RunningPage, scan: CatalogScan) -> None:
    with page.client() as client:
        path = f"/api/scans/{scan.scan_id}/ask"
        assert client.post(path, json={"index": DEPTH - 1}).json() == {}
        assert client.post(path, json={"index": DEPTH}).status_code == 404


def test_the_page_changes_no_scan(page: RunningPage, scan: CatalogScan) -> None:
    image = np.array(load_scan(page.store, scan.scan_id).image)
    with page.client() as client:
        paint(client, scan.scan_id, 5, block())
        wait_for(client, scan.scan_id, is_over)
    assert find_scan(page.store, scan.scan_id) == scan
    np.testing.assert_array_equal(load_scan(page.store, scan.scan_id).image, image)
