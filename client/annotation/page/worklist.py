"""Who one is, and what there is to do."""

from typing import Annotated

from fastapi import APIRouter, Query

from client.annotation.page.desk import Annotator, Refusal, TheDesk
from client.annotation.worklist import State, Wanted, Worklist, read_worklist

router = APIRouter()


@router.get("/me")
def me(desk: TheDesk, annotator: Annotator) -> dict[str, object]:
    """The hospital, the annotator, and the plan's tasks with their classes."""
    labels = {label.name: label for label in desk.plan.labels}
    tasks = [
        {
            "name": task.name,
            "plane": task.plane,
            "axis": task.axis,
            "modality": task.modality,
            "window_hu": task.window_hu,
            "classes": [
                {
                    "index": labels[name].index,
                    "name": name,
                    "colour": labels[name].colour,
                }
                for name in sorted(task.classes, key=lambda name: labels[name].index)
            ],
        }
        for task in desk.tasks
    ]
    return {"hospital": desk.store.hospital, "annotator": annotator, "tasks": tasks}


@router.get("/worklist")
def worklist(
    desk: TheDesk,
    annotator: Annotator,
    task: str | None = None,
    state: State | None = None,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Worklist:
    """A page of the scans that wait for something."""
    names = [one.name for one in desk.tasks]
    if task is not None and task not in names:
        raise Refusal(422, f"expected one of the tasks {', '.join(names)}")
    wanted = Wanted(task or desk.task, state, offset, limit)
    return read_worklist(desk.store, desk.plan, wanted, annotator)
