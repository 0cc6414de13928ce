"""The tables of a hospital's catalog. A change of them is a new version."""

SCHEMA_VERSION = 5
SCHEMA = """
CREATE TABLE hospital (name TEXT NOT NULL);
CREATE TABLE scans (
    scan_id TEXT PRIMARY KEY,
    case_name TEXT NOT NULL,
    task TEXT NOT NULL,
    modality TEXT NOT NULL,
    geometry TEXT NOT NULL,          -- JSON: shape and affine in RAS
    original TEXT NOT NULL,          -- JSON: shape and affine as in the file
    image_key TEXT NOT NULL,
    reference_key TEXT,              -- a full label that came with the scan, or none
    label_names TEXT NOT NULL,       -- JSON: value -> name in the data set's own dictionary
    label_voxels TEXT NOT NULL,      -- JSON: value -> voxels in the reference label
    display_key TEXT NOT NULL,       -- int16 stack for the page, the task's axis first
    display TEXT NOT NULL            -- JSON: its unit and the window it opens with
);
CREATE INDEX scans_by_task ON scans (task);
CREATE TABLE identities (            -- who a scan is of; stays in this file
    scan_id TEXT PRIMARY KEY REFERENCES scans,
    patient TEXT NOT NULL,           -- the patient's number in the hospital
    details TEXT NOT NULL            -- JSON: name, birth date, study and series numbers
);
CREATE INDEX identities_by_patient ON identities (patient);
CREATE TABLE quarantine (
    task TEXT NOT NULL,
    case_name TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (task, case_name)
);
CREATE TABLE annotations (
    scan_id TEXT NOT NULL REFERENCES scans,
    axis INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    version INTEGER NOT NULL,
    mask_key TEXT NOT NULL,
    looked_for TEXT NOT NULL,        -- JSON: label indexes
    present TEXT NOT NULL,           -- JSON: those that the mask holds
    annotator TEXT NOT NULL,
    seconds_spent REAL NOT NULL,
    time TEXT NOT NULL,
    PRIMARY KEY (scan_id, axis, slice, version)
);
CREATE TABLE local_names (           -- what the file a scan's slices were imported from called them
    scan_id TEXT NOT NULL REFERENCES scans,
    label INTEGER NOT NULL,          -- index in the plan's dictionary
    name TEXT NOT NULL,
    PRIMARY KEY (scan_id, label, name)
);
CREATE TABLE drafts (                -- every stroke of a slice that is not submitted yet
    scan_id TEXT NOT NULL REFERENCES scans,
    axis INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    annotator TEXT NOT NULL,
    version INTEGER NOT NULL,
    mask BLOB NOT NULL,              -- zlib over the bytes, row by row
    seconds_spent REAL NOT NULL,
    time TEXT NOT NULL,
    PRIMARY KEY (scan_id, axis, slice, annotator, version)
);
CREATE TABLE doubts (                -- where a segmenter doubts itself, on scans nobody has painted
    scan_id TEXT PRIMARY KEY REFERENCES scans,
    federation TEXT NOT NULL,
    round INTEGER NOT NULL,          -- whose incoming segmenter it was
    profile TEXT NOT NULL            -- JSON: doubtful voxels on each slice along the task's axis
);
CREATE TABLE claims (                -- who has a scan open; one at a time, until it expires
    scan_id TEXT PRIMARY KEY REFERENCES scans,
    annotator TEXT NOT NULL,
    expires REAL NOT NULL            -- seconds since 1970
);
CREATE TABLE reviews (               -- what a person said of a scan's spread label; the last counts
    scan_id TEXT NOT NULL REFERENCES scans,
    number INTEGER NOT NULL,
    verdict TEXT NOT NULL,           -- accepted or flagged
    annotator TEXT NOT NULL,
    reason TEXT NOT NULL,
    time TEXT NOT NULL,
    PRIMARY KEY (scan_id, number)
);
CREATE TABLE label_maps (
    scan_id TEXT NOT NULL REFERENCES scans,
    version INTEGER NOT NULL,
    origin TEXT NOT NULL,            -- digest of the slices and settings it was made from
    federation TEXT NOT NULL,        -- for whom it was made
    round INTEGER NOT NULL,          -- whose segmenter had a part in it; 0: none had
    score REAL NOT NULL,             -- of that segmenter on held-back slices; 0 without one
    source TEXT NOT NULL,
    classes TEXT NOT NULL,
    spread TEXT NOT NULL,
    soft_key TEXT NOT NULL,
    weight_key TEXT NOT NULL,
    expert_key TEXT NOT NULL,
    PRIMARY KEY (scan_id, version)
);
CREATE TABLE correspondence (
    settings TEXT NOT NULL,          -- digest of the network's settings
    part INTEGER NOT NULL,           -- how far its training is
    scans TEXT NOT NULL,             -- JSON: the scan_ids that it saw
    weights_key TEXT NOT NULL,
    PRIMARY KEY (settings, scans, part)
);
CREATE TABLE rounds (
    federation TEXT NOT NULL,
    round INTEGER NOT NULL,
    tasks_trained TEXT NOT NULL,     -- JSON: task -> stage
    seen TEXT NOT NULL,              -- JSON: group -> scans ever offered to the memory
    offered TEXT NOT NULL,           -- JSON: scan_ids ever offered to the memory
    digest TEXT NOT NULL,            -- of the request that this round answered
    PRIMARY KEY (federation, round)
);
CREATE TABLE replay (
    federation TEXT NOT NULL,
    round INTEGER NOT NULL,
    place INTEGER NOT NULL,
    scan_id TEXT NOT NULL REFERENCES scans,
    task TEXT NOT NULL,
    grp TEXT NOT NULL,
    PRIMARY KEY (federation, round, place),
    FOREIGN KEY (federation, round) REFERENCES rounds ON DELETE CASCADE
);
CREATE TABLE own_networks (          -- that a hospital trains for its student and never sends
    federation TEXT NOT NULL,
    round INTEGER NOT NULL,          -- after which they were so; the last rounds alone
    weights_key TEXT NOT NULL,
    PRIMARY KEY (federation, round),
    FOREIGN KEY (federation, round) REFERENCES rounds ON DELETE CASCADE
);
CREATE TABLE uses (                  -- which rounds had which scan in their material
    federation TEXT NOT NULL,
    scan_id TEXT NOT NULL,           -- stays when the scan is withdrawn: part of the proof
    part TEXT NOT NULL,              -- trained, replayed, taught, self_learned or scored
    first_round INTEGER NOT NULL,    -- rounds that follow each other are one row
    last_round INTEGER NOT NULL,
    PRIMARY KEY (federation, scan_id, part, first_round)
);
CREATE TABLE withdrawn (             -- scans that may not come back
    scan_id TEXT PRIMARY KEY,
    time TEXT NOT NULL,
    proof TEXT                       -- JSON; NULL once it is in the audit log, when nothing is left
);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    event TEXT NOT NULL,
    details TEXT NOT NULL,
    chain TEXT NOT NULL              -- sha256 over the row before and this one
);
"""
