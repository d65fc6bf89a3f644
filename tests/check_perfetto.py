"""Holds a file of `nvmx export --to perfetto` to Perfetto's own schema, and prints what is in it as JSON.

usage: check_perfetto.py FILE

Needs the PyPI package `perfetto`, which has the schema. It is checked that the schema knows every field and that each is
encoded as it says, that tracks and interned texts are told of before they are used, that the slices of each track nest and
end, and that a counter's values come in order. A file that fails ends the program with an AssertionError.
"""

import collections
import json
import sys

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent, TracePacket

INTERNED = ["event_names", "event_categories", "debug_annotation_names", "debug_annotation_string_values"]


class Interned:
    """The texts of a sequence by number."""

    def __init__(self):
        self.lists = {name: {} for name in INTERNED}

    def see(self, data):
        for name, known in self.lists.items():
            for entry in getattr(data, name):
                assert entry.iid not in known, f"{name} {entry.iid} is told of twice"
                text = entry.str.decode() if name == "debug_annotation_string_values" else entry.name
                known[entry.iid] = text

    def name(self, event):
        return self.lists["event_names"][event.name_iid] if event.name_iid else event.name

    def categories(self, event):
        return [self.lists["event_categories"][iid] for iid in event.category_iids]

    def args(self, annotations):
        """A list of annotations as a dictionary."""
        found = {}
        for of in annotations:
            name = self.lists["debug_annotation_names"][of.name_iid] if of.name_iid else of.name
            value = of.WhichOneof("value")
            if of.dict_entries:
                found[name] = self.args(of.dict_entries)
            elif value == "string_value_iid":
                found[name] = self.lists["debug_annotation_string_values"][of.string_value_iid]
            else:
                found[name] = getattr(of, value)
        return found


def read(path):
    """Slices, instants and counters' values: dictionaries with track, name, categories, at, end, args, depth, kind."""
    with open(path, "rb") as file:
        data = file.read()
    trace = Trace()
    assert trace.ParseFromString(data) == len(data)
    trace.DiscardUnknownFields()
    assert trace.SerializeToString() == data, "the schema does not know a field, or encodes it in another way"

    tracks, interned = {}, Interned()
    events = []
    for place, packet in enumerate(trace.packet):
        assert packet.trusted_packet_sequence_id == 1
        flag = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED if place == 0 else TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        assert packet.sequence_flags == flag, place
        interned.see(packet.interned_data)
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid not in tracks, "a track is told of twice"
            assert not track.parent_uuid or track.parent_uuid in tracks, "a track is told of before its parent"
            own = track.process.process_name if track.HasField("process") else track.name
            parent = tracks[track.parent_uuid] + "/" if track.parent_uuid else ""
            tracks[track.uuid] = parent + own
        if packet.HasField("track_event"):
            event = packet.track_event
            events.append((packet.timestamp, place, event))

    # Perfetto sorts by time; what has one time stays in the file's order.
    events.sort(key=lambda event: event[:2])
    found, open_slices, places = [], collections.defaultdict(list), {}
    for at, place, event in events:
        track = tracks[event.track_uuid]
        kind = TrackEvent.Type.Name(event.type)
        if kind == "TYPE_SLICE_END":
            begun = open_slices[track].pop()
            begun["end"] = at
            begun["args"].update(interned.args(event.debug_annotations))
        else:
            stack = open_slices[track]
            row = {
                "track": track,
                "kind": kind,
                "name": event.counter_value if kind == "TYPE_COUNTER" else interned.name(event),
                "categories": interned.categories(event),
                "at": at,
                "end": None,
                "depth": len(stack),
                "args": interned.args(event.debug_annotations),
                "flows": list(event.flow_ids),
                "ends_flows": list(event.terminating_flow_ids),
            }
            found.append(row)
            if kind == "TYPE_SLICE_BEGIN":
                stack.append(row)
        if kind != "TYPE_INSTANT":
            assert places.get(track, -1) < place, f"{track} is not in the order of its times"
            places[track] = place
    for track, stack in open_slices.items():
        assert not stack, f"a slice of {track} has no end"
    return found


def summary(found):
    """What `nvmx query` counts too."""
    count = collections.Counter
    slices = [row for row in found if row["kind"] == "TYPE_SLICE_BEGIN"]
    exits = [row for row in slices if row["track"].endswith("/L0")]
    flushes = [row for row in found if row["track"].endswith("/flushes")]
    counters = count()
    for row in found:
        if row["kind"] == "TYPE_COUNTER":
            counters[row["track"].split("/", 1)[1]] += row["name"]

    # A guest runs on its own track and nowhere else meanwhile; all that one of L1 handles lies within.
    started = {flow for row in slices for flow in row["flows"]}
    assert all(flow in started for row in slices for flow in row["ends_flows"]), "an arrow ends that began nowhere"
    return {
        "exits": count(f"{row['args']['level']} {row['name']} {row['args']['handled_by']}" for row in exits),
        "runs": count(row["name"] for row in slices if row["categories"] == ["run"]),
        "reflected": sum(row["categories"] == ["handling"] for row in slices),
        "nested": sum(row["depth"] for row in exits),
        "flushes": count(row["args"]["kind"] for row in flushes),
        "verdicts": count(row["args"]["verdict"] for row in flushes),
        "marks": [row["args"]["value"] for row in found if row["track"].endswith("/marks")],
        "injections": sum(row["track"].endswith("/injections") for row in found),
        "vmreads": sum(row["args"].get("vmreads", 0) for row in exits),
        "vmwrites": sum(row["args"].get("vmwrites", 0) for row in exits),
        "counters": counters,
        "trace": next(row["args"] for row in slices if row["track"] == "trace"),
    }


if __name__ == "__main__":
    json.dump(summary(read(sys.argv[1])), sys.stdout)
    print()
