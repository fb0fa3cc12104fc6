"""Replacing a storage configuration (§20.3): stored at once, delivered to every subtask that uses it."""

from __future__ import annotations

import hashlib

import pytest
from kit import (
    Answer,
    Device,
    Json,
    World,
    b64,
    combo,
    drop_connection,
    failed,
    hold,
    ok,
    payload,
    refuse,
    short,
    silent,
)

SERVER = {"device_timeout": 1.5, "limits": {"store_conf_max": 1_048_576}}
BAD_FIELD, BAD_FILE, IN_USE = 1004000002, 1004000004, 1004090004
OFFLINE, SILENT = 1005030001, 1005040001
MAX = 1_048_576
FIRST, SECOND = b"<conf><disk>1</disk></conf>", b"<conf><disk>2</disk></conf>"


def replace(world: World, unid: str, content: bytes, name: str = "conf", file_ext: str = "xml") -> Answer:
    params = {"unid": unid, "name": name, "file_ext": file_ext, "file_b64": b64(content)}
    return world.operator.call("put store_confs", params, src_page="xxxx")


def has_file(device: Device, key: tuple[str, str | None], content: bytes) -> bool:
    with device.changed:
        conf = device.held.get(key, {}).get("store_conf")
    return conf is not None and conf["file_b64"] == b64(content)


def counted(answer: Answer) -> Json:
    """The payload of a full success."""
    told = payload(answer)
    assert told.pop("devices_omitted", 0) == 0
    return told


def partly(answer: Answer, ecode: int, delivered: int, total: int) -> list[Json]:
    """Stored, but not everybody has it; the entries of those who have not."""
    assert answer["enote"].startswith(f"stored; {total - delivered} of {total} will get it when they return")
    failed(answer, ecode, stored=True, maybe=("rev", "total", "delivered", "devices", "devices_omitted"))
    assert (answer["delivered"], answer["total"]) == (delivered, total)
    entries: list[Json] = answer["devices"]
    return entries


# -- delivery


def test_goes_to_everything_that_uses_it(world: World) -> None:
    """All subtasks of all video tasks, and the devices of picture tasks; nothing else."""
    unid, unrelated = world.store_conf(FIRST), world.store_conf(FIRST)
    devices = [world.device() for _ in range(3)]
    videos = [world.video_task(store_conf_unid=unid) for _ in range(2)]
    pic = world.pic_task(*devices[:2], store_conf_unid=unid)
    other = world.pic_task(devices[2], store_conf_unid=unrelated)
    keys = [(device, video, world.subtask(video, device)) for video in videos for device in devices]
    users: list[tuple[Device, str, str | None]] = [*keys, (devices[0], pic, None), (devices[1], pic, None)]
    answer = replace(world, unid, SECOND, "renamed")
    told = counted(answer)
    assert told == {"unid": unid, "rev": told["rev"], "total": 8, "delivered": 8, "devices": []}
    for device, task_id, subtask_id in users:
        assert has_file(device, (task_id, subtask_id), SECOND)
        (order,) = [o for o in device.heard("put", task_id) if o.key == (task_id, subtask_id)]
        assert set(order.params) == {"task_id", "rev", "store_conf"} | ({"subtask_id"} if subtask_id else set())
        file = {"unid": unid, "name": "renamed", "file_ext": "xml", "file_b64": b64(SECOND)}
        assert order.params["store_conf"] == file
    assert not devices[2].heard("put", other)
    item = world.conf(unid, content=True)
    assert (item["name"], item["file_ext"], item["rev"]) == ("renamed", "xml", told["rev"])
    assert (item["size"], item["sha256"]) == (len(SECOND), hashlib.sha256(SECOND).hexdigest())
    assert item["file_b64"] == b64(SECOND)
    assert sorted(item["task_ids"]) == sorted([*videos, pic])
    assert "file_b64" not in world.conf(unid)


def test_forty_subtasks_and_two_devices_that_return_later(world: World) -> None:
    unid = world.store_conf(FIRST)
    devices = [world.device() for _ in range(5)]
    videos = [world.video_task(store_conf_unid=unid) for _ in range(2)]
    keys = [(device, (videos[n % 2], world.subtask(videos[n % 2], device))) for device in devices for n in range(8)]
    away = devices[3:]
    for device in away:
        world.disconnect(device)
    answer = replace(world, unid, SECOND)
    entries = partly(answer, OFFLINE, 24, 40)
    assert {(entry["dev_unid"], entry["subtask_id"]) for entry in entries} == {
        (device.dev_unid, key[1]) for device, key in keys if device in away
    }
    assert {(entry["state"], entry["ecode"]) for entry in entries} == {("pending", OFFLINE)}
    assert all(has_file(device, key, SECOND) for device, key in keys if device not in away)
    assert world.conf(unid)["sha256"] == hashlib.sha256(SECOND).hexdigest()
    for device in away:
        world.connect(device)
    for device, key in keys:
        device.wait_for(lambda device=device, key=key: has_file(device, key, SECOND))  # type: ignore[misc]
    for video in videos:
        world.settled(video)


def test_offline_devices_get_only_the_newest(world: World) -> None:
    unid = world.store_conf(FIRST)
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=unid)
    world.disconnect(device)
    for n in range(3):
        partly(replace(world, unid, b"<n>%d</n>" % n), OFFLINE, 0, 1)
    world.connect(device)
    device.wait_for(lambda: has_file(device, (task_id, None), b"<n>2</n>"))
    assert len(device.heard("put")) == 1


def test_refused_counts_as_delivered(world: World) -> None:
    unid = world.store_conf(FIRST)
    good, bad = world.device(), world.device()
    task_id = world.pic_task(good, bad, store_conf_unid=unid)
    bad.behave(refuse(31, "cannot apply"), verb="put")
    answer = replace(world, unid, SECOND)
    told = payload(answer)
    assert (told["total"], told["delivered"]) == (2, 2)
    (entry,) = told["devices"]  # only those that did not confirm
    assert entry == {"dev_unid": bad.dev_unid, "state": "refused", "ecode": 31, "enote": "cannot apply"}
    assert world.task(task_id)["state"] == "refused"
    assert world.device_item(bad)["refused"] == 1


def test_silent_device(world: World) -> None:
    unid = world.store_conf(FIRST)
    good, bad = world.device(), world.device()
    task_id = world.pic_task(good, bad, store_conf_unid=unid)
    bad.behave(hold, verb="put", times=1)
    (entry,) = partly(replace(world, unid, SECOND), SILENT, 1, 2)
    assert (entry["dev_unid"], entry["state"], entry["ecode"]) == (bad.dev_unid, "pending", SILENT)
    bad.release()
    world.settled(task_id)  # the late answer acknowledges like any other


def test_silent_before_offline(world: World) -> None:
    unid = world.store_conf(FIRST)
    mute, away = world.device(), world.device()
    world.pic_task(mute, away, store_conf_unid=unid)
    world.disconnect(away)
    mute.behave(silent(), verb="put", times=1)
    entries = partly(replace(world, unid, SECOND), SILENT, 0, 2)
    assert {entry["dev_unid"]: entry["ecode"] for entry in entries} == {
        mute.dev_unid: SILENT,
        away.dev_unid: OFFLINE,
    }


def test_device_lost_on_the_way(world: World) -> None:
    unid = world.store_conf(FIRST)
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=unid)
    device.behave(drop_connection(), verb="put", times=1)
    answer = replace(world, unid, SECOND)
    assert answer["ecode"] in (OFFLINE, SILENT)
    partly(answer, answer["ecode"], 0, 1)
    world.connect(device)
    device.wait_for(lambda: has_file(device, (task_id, None), SECOND))


def test_device_that_lost_the_task_gets_it_whole(world: World) -> None:
    """`1004040001` and `1004040003` are no deliveries: an "add" follows within the same wait."""
    unid = world.store_conf(FIRST)
    device = world.device()
    pic = world.pic_task(device, store_conf_unid=unid)
    video = world.video_task(store_conf_unid=unid)
    subtask_id = world.subtask(video, device)
    device.wipe()
    told = counted(replace(world, unid, SECOND))
    assert (told["total"], told["delivered"], told["devices"]) == (2, 2, [])
    for key in ((pic, None), (video, subtask_id)):
        assert has_file(device, key, SECOND)


def test_same_bytes_again(world: World) -> None:
    unid = world.store_conf(FIRST)
    here, away = world.device(), world.device()
    task_id = world.pic_task(here, away, store_conf_unid=unid)
    world.disconnect(away)
    rev = replace(world, unid, SECOND)["rev"]
    world.connect(away)
    world.settled(task_id)
    heard = len(here.heard()), len(away.heard())
    again = ok(replace(world, unid, SECOND))
    assert again["rev"] == rev == world.conf(unid)["rev"]
    assert again["devices"] == []
    for device in (here, away):
        device.barrier()
    assert (len(here.heard()), len(away.heard())) == heard
    assert ok(replace(world, unid, SECOND, "another name"))["rev"] > rev, "a new name is a change"
    assert len(here.heard()) == heard[0] + 1


def test_same_bytes_again_for_those_behind(world: World) -> None:
    unid = world.store_conf(FIRST)
    here, behind = world.device(), world.device()
    task_id = world.pic_task(here, behind, store_conf_unid=unid)
    behind.behave(silent(), verb="put", times=1)
    rev = replace(world, unid, SECOND)["rev"]
    again = replace(world, unid, SECOND)
    assert again["rev"] == rev
    behind.wait_for(lambda: has_file(behind, (task_id, None), SECOND))
    assert len(here.heard("put")) == 1


def test_nobody_uses_it(world: World) -> None:
    unid = world.store_conf(FIRST)
    told = counted(replace(world, unid, SECOND))
    assert told == {"unid": unid, "rev": told["rev"], "total": 0, "delivered": 0, "devices": []}
    assert world.conf(unid, content=True)["file_b64"] == b64(SECOND)


def test_a_video_task_without_subtasks(world: World) -> None:
    unid = world.store_conf(FIRST)
    world.video_task(store_conf_unid=unid)
    assert counted(replace(world, unid, SECOND))["total"] == 0


def test_two_replacements_at_once(world: World) -> None:
    unid = world.store_conf(FIRST)
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=unid)
    params = {"unid": unid, "name": "conf", "file_ext": "xml"}
    sent = [world.operator.send("put store_confs", params | {"file_b64": b64(b"<n>%d</n>" % n)}) for n in range(5)]
    revs = [ok(world.operator.answer(req_id))["rev"] for req_id in sent]
    assert revs == sorted(set(revs))
    assert has_file(device, (task_id, None), b"<n>4</n>")


def test_a_configuration_changed_while_another_part_is_behind(world: World) -> None:
    """A device that missed two kinds of change gets both parts in one message."""
    unid = world.store_conf(FIRST)
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=unid, algo_comb=combo("a1"))
    world.disconnect(device)
    replace(world, unid, SECOND)
    ok(world.operator.call("put tasks", {"task_id": task_id, "name": "other"}))
    world.connect(device)
    world.settled(task_id)
    (order,) = device.heard("put")
    assert set(order.params) == {"task_id", "rev", "name", "store_conf"}


# -- what a file has to be

XML = '<?xml version="1.0" encoding="%s"?>\n<设置 名="盘">值</设置>\r\n'
UTF_8_BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "file_ext"),
    [
        *((((XML % name).encode(name)), "xml") for name in ("UTF-8", "GBK", "GB2312", "gb18030", "gbk")),
        ((XML % "UTF-16").encode("utf-16"), "xml"),
        (UTF_8_BOM + (XML % "utf-8").encode(), "xml"),
        (b"<a>\r\n</a>\n\n", "xml"),
        ('{"名": [1, 2.5, null]}'.encode(), "json"),
        (b" [] ", "json"),
        (bytes(range(256)), "bin"),
        (b"not <xml", "conf"),
        (b"x", "A1b2C3d4E5f6G7h8"),
        (b"x" * MAX, "bin"),
        (b"<a>" + b"x" * (MAX - 7) + b"</a>", "xml"),
    ],
    ids=short,
)
def test_accepted_and_kept_byte_for_byte(world: World, content: bytes, file_ext: str) -> None:
    made = payload(
        world.operator.call("post store_confs", {"name": "n", "file_ext": file_ext, "file_b64": b64(content)})
    )
    assert set(made) == {"unid", "rev"}
    unid = made["unid"]
    item = world.conf(unid, content=True)
    assert (item["file_b64"], item["file_ext"]) == (b64(content), file_ext)
    assert (item["size"], item["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    ok(replace(world, unid, FIRST))
    ok(replace(world, unid, content, "n", file_ext))
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=unid)
    assert has_file(device, (task_id, None), content)


BOMB = b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize("command", ["post store_confs", "put store_confs"])
@pytest.mark.parametrize(
    ("file_b64", "file_ext"),
    [
        ("", "xml"),
        ("", "bin"),
        ("PGEvPg", "bin"),  # no padding
        ("PGEv\nPg==", "bin"),
        (" PGEvPg==", "bin"),
        ("PGEvPg==PGEvPg==", "bin"),
        ("_-_-", "bin"),
        ("äöü=", "bin"),
        (b64(b"<a>"), "xml"),
        (b64(b"<a/><b/>"), "xml"),
        (b64(b"   "), "xml"),
        (b64(b"<a>&nope;</a>"), "xml"),
        (b64(b"<!DOCTYPE a><a/>"), "xml"),
        (b64(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'), "xml"),
        (b64(BOMB), "xml"),
        (b64((XML % "UTF-8").encode("gbk")), "xml"),
        (b64((XML % "GBK").encode("gbk").replace(b"\xd6\xb5", b"\xff\xff")), "xml"),
        (b64((XML % "no-such-code").encode()), "xml"),
        (b64(b"{"), "json"),
        (b64(b"{'a': 1}"), "json"),
        (b64(b'"\xff"'), "json"),
        (b64(b"x" * (MAX + 1)), "bin"),
    ],
    ids=short,
)
def test_not_what_it_claims(world: World, command: str, file_b64: str, file_ext: str) -> None:
    params = {"name": "n", "file_ext": file_ext, "file_b64": file_b64}
    if command == "put store_confs":
        params["unid"] = world.store_conf(FIRST)
    with world.server.unchanged():
        failed(world.operator.call(command, params), BAD_FILE)


@pytest.mark.parametrize("file_ext", ["", "x" * 17, "../x", "x.y", "x y", "文"])
def test_bad_extension(world: World, file_ext: str) -> None:
    """The contract lists it with the checks of the content and with the shape of a field alike."""
    params = {"name": "n", "file_ext": file_ext, "file_b64": b64(FIRST)}
    with world.server.unchanged():
        answer = world.operator.call("post store_confs", params)
        failed(answer, answer["ecode"] if answer["ecode"] == BAD_FIELD else BAD_FILE)


# -- use and deletion


def test_in_use_is_not_deleted(world: World) -> None:
    unid = world.store_conf(FIRST)
    tasks = [world.pic_task(store_conf_unid=unid), world.video_task(store_conf_unid=unid)]
    for task_id in tasks:
        with world.server.unchanged():
            failed(world.operator.call("delete store_confs", {"unid": unid}), IN_USE, stored=True)
        ok(world.operator.call("put tasks", {"task_id": task_id, "store_conf_unid": None}))
    assert payload(world.operator.call("delete store_confs", {"unid": unid})) == {"unid": unid}
    failed(replace(world, unid, FIRST), 1004040002, unid, stored=True)


def test_contents_are_in_no_log(world: World) -> None:
    secret = b"<conf>kept to itself</conf>"
    unid = world.store_conf(secret)
    ok(replace(world, unid, SECOND))
    log = world.server.log()
    assert b64(secret) not in log
    assert secret.decode() not in log
    assert "kept to itself" not in repr(world.server.dump(leave_out=())), "no copy is kept anywhere"
