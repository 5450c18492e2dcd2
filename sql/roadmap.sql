-- What people have ticked off by hand. Written only by the functions that tick and untick, as the owner of the table; dumped
-- as it is, so that names of roles are text: a role may be gone where it is restored.
CREATE TABLE perf.manual_tick (
    list text NOT NULL CHECK (list IN ('checklist', 'roadmap')),
    phase text NOT NULL,
    item_no int NOT NULL,
    item text NOT NULL,
    note text,
    ticked_by text NOT NULL,
    ticked_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (list, phase, item_no)
);
SELECT pg_catalog.pg_extension_config_dump('perf.manual_tick', '');
GRANT SELECT ON perf.manual_tick TO PUBLIC;

COMMENT ON TABLE perf.manual_tick IS 'Items of perf.checklist_item and tasks of perf.roadmap_task that somebody has ticked off. Written by perf.checklist_tick() and perf.roadmap_tick()';
COMMENT ON COLUMN perf.manual_tick.list IS 'checklist | roadmap';
COMMENT ON COLUMN perf.manual_tick.phase IS 'Phase of the item';
COMMENT ON COLUMN perf.manual_tick.item_no IS 'Number of the item, or of the task, within its phase';
COMMENT ON COLUMN perf.manual_tick.item IS 'What was ticked: once the item says something else, the tick no longer counts';
COMMENT ON COLUMN perf.manual_tick.note IS 'What whoever ticked had to say';
COMMENT ON COLUMN perf.manual_tick.ticked_by IS 'Name of the role';
COMMENT ON COLUMN perf.manual_tick.ticked_at IS 'When';
