//! What keeps a table from being converted, or from being made plain again: a table of questions to the catalogs, each with
//! the step that it stands in the way of. What depends on the table in a way that is not known here is in the way as well:
//! it would go on to mean the first partition alone. Inside a transaction, under a `search_path` of `pg_catalog`.

use std::ffi::CStr;

use super::facts::{texts, Table};
use super::plan::Step;

/// Something in the way.
#[derive(Clone, Debug)]
pub struct Obstacle {
    /// Of what.
    pub step: Step,
    /// SQLSTATE that a conversion fails with.
    pub sqlstate: &'static str,
    /// What it is.
    pub message: String,
    /// The way out.
    pub hint: String,
}

/// A question; $1 is the table, and each row of the answer is an obstacle.
struct Question {
    step: Step,
    sqlstate: &'static str,
    hint: &'static str,
    query: &'static CStr,
}

/// What must be so for anything else to be asked.
const NATURE: &[Question] = &[
    Question {
        step: Step::Start,
        sqlstate: "42501",
        hint: "Only the owner of a table, or who may act as the owner, can convert it.",
        query: c"SELECT format('permission denied: you do not own %s', oid::regclass) FROM pg_class
                 WHERE oid = $1 AND NOT pg_has_role(relowner, 'USAGE')",
    },
    Question {
        step: Step::Start,
        sqlstate: "55000",
        hint: "perf.partition_manage(parent, every) looks after a partitioned table.",
        query:
            c"SELECT format('%s is partitioned already', oid::regclass) FROM pg_class WHERE oid = $1 AND relkind = 'p'",
    },
    Question {
        step: Step::Start,
        sqlstate: "42809",
        hint: "Only a plain table can be converted.",
        query: c"SELECT format('%s is %s, not a table', oid::regclass, CASE relkind
                        WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table'
                        WHEN 'S' THEN 'a sequence' WHEN 'c' THEN 'a composite type' WHEN 't' THEN 'a TOAST table'
                        ELSE 'an index' END)
                 FROM pg_class WHERE oid = $1 AND relkind NOT IN ('r', 'p')",
    },
    Question {
        step: Step::Start,
        sqlstate: "0A000",
        hint: "Convert tables of your own.",
        query: c"SELECT format('%s is a table of the system', c.oid::regclass)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = $1 AND (n.nspname IN ('pg_catalog', 'information_schema') OR n.nspname ^@ 'pg_toast')
                 UNION ALL
                 SELECT format('%s belongs to extension %I', $1::regclass, e.extname)
                 FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.refclassid = 'pg_extension'::regclass
                   AND d.deptype = 'e'",
    },
    Question {
        step: Step::Start,
        sqlstate: "0A000",
        hint: "Use a permanent, logged table: ALTER TABLE ... SET LOGGED rewrites an unlogged one.",
        query: c"SELECT format('%s is %s', oid::regclass, CASE relpersistence WHEN 't'
                        THEN 'a temporary table, which no other session can work on'
                        ELSE 'unlogged, which a partitioned table cannot be' END)
                 FROM pg_class WHERE oid = $1 AND relpersistence <> 'p'",
    },
    Question {
        step: Step::Start,
        sqlstate: "0A000",
        hint: "Convert the table that it is a partition of, or detach it.",
        query: c"SELECT format('%s is a partition of %s', c.oid::regclass, i.inhparent::regclass)
                 FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.oid = $1 AND c.relispartition",
    },
    Question {
        step: Step::Start,
        sqlstate: "0A000",
        hint: "End the inheritance: ALTER TABLE ... NO INHERIT.",
        query: c"SELECT format('%s inherits from %s', c.oid::regclass, i.inhparent::regclass)
                 FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.oid = $1 AND NOT c.relispartition
                 UNION ALL
                 SELECT format('%s inherits from %s', i.inhrelid::regclass, c.oid::regclass)
                 FROM pg_class c JOIN pg_inherits i ON i.inhparent = c.oid WHERE c.oid = $1 AND c.relkind = 'r'",
    },
    Question {
        step: Step::Start,
        sqlstate: "0A000",
        hint: "ALTER TABLE ... NOT OF makes it an ordinary table.",
        query: c"SELECT format('%s is a table of type %s', oid::regclass, reloftype::regtype) FROM pg_class
                 WHERE oid = $1 AND reloftype <> 0",
    },
];

/// What else can be in the way, before and after.
const DEPENDENTS: &[Question] = &[
    Question {
        step: Step::Swap,
        sqlstate: "42501",
        hint: "The new table is made in the schema of the old one: GRANT CREATE ON SCHEMA.",
        query: c"SELECT format('permission denied: role %I may not create in schema %I', r.rolname, n.nspname)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 JOIN pg_roles r ON r.rolname = current_user OR r.oid = c.relowner
                 WHERE c.oid = $1 AND NOT has_schema_privilege(r.oid, n.oid, 'CREATE')
                   AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
    },
    Question {
        step: Step::Bound,
        sqlstate: "42501",
        hint: "Use a role with BYPASSRLS, or ALTER TABLE ... NO FORCE ROW LEVEL SECURITY meanwhile.",
        query: c"SELECT format('row-level security of %s hides rows from you', $1::regclass) WHERE row_security_active($1)",
    },
    Question {
        step: Step::Keys,
        sqlstate: "0A000",
        hint: "Drop the foreign key: a unique key of a partitioned table must contain the control column.",
        query: c"SELECT format('foreign key %I of %s refers to it', conname, conrelid::regclass) FROM pg_constraint
                 WHERE confrelid = $1 AND contype = 'f' AND conparentid = 0 ORDER BY 1",
    },
    Question {
        step: Step::Keys,
        sqlstate: "0A000",
        hint: "A partitioned table has none of these: drop it, or check the rule in a trigger.",
        query: c"SELECT format('%I is an exclusion constraint, or a key over a range', i.relname)
                 FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = $1 AND x.indisexclusion ORDER BY 1",
    },
    Question {
        step: Step::Keys,
        sqlstate: "0A000",
        hint: "Write the view with all columns in GROUP BY, so that it does not need the key.",
        query: c"SELECT DISTINCT format('%s needs %I to be a key', pg_describe_object(d.classid, d.objid, 0), c.conname)
                 FROM pg_constraint c JOIN pg_depend d ON d.refclassid = 'pg_constraint'::regclass AND d.refobjid = c.oid
                 WHERE c.conrelid = $1 AND d.deptype = 'n' AND d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass)
                 ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "55000",
        hint: "ALTER TABLE ... VALIDATE CONSTRAINT it first, or drop it.",
        query: c"SELECT format('constraint %I is not validated', conname) FROM pg_constraint
                 WHERE conrelid = $1 AND NOT convalidated AND conname !~ '^perf_convert_' ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "A partitioned table hands all its constraints to its partitions: define it without NO INHERIT.",
        query: c"SELECT format('constraint %I is defined with NO INHERIT', conname) FROM pg_constraint
                 WHERE conrelid = $1 AND connoinherit AND contype IN ('c', 'n') ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "A row trigger of a partitioned table can have no REFERENCING: make it a statement trigger.",
        query: c"SELECT format('trigger %I is for each row and has transition tables', tgname) FROM pg_trigger
                 WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 1 = 1 AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL)
                 ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "Drop the rule: triggers and views do what rules do.",
        query: c"SELECT format('rule %I is defined on it', rulename) FROM pg_rewrite WHERE ev_class = $1 ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "42501",
        hint: "Views must be defined anew for the new table: convert it as a role that may act as their owners.",
        query: c"SELECT DISTINCT format('permission denied: you do not own view %s', v.oid::regclass)
                 FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
                 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
                   AND v.relkind = 'v' AND NOT pg_has_role(v.relowner, 'USAGE') ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "It would go on to read the first partition alone. Drop it, and create it again afterwards; a view can stay.",
        query: c"SELECT DISTINCT format('%s depends on it', pg_describe_object(d.classid, d.objid, 0))
                 FROM pg_depend d
                 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype <> 'i'
                   AND NOT CASE d.classid
                       WHEN 'pg_rewrite'::regclass THEN EXISTS (
                           SELECT FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class
                           WHERE r.oid = d.objid AND (r.ev_class = $1 OR v.relkind = 'v' AND r.rulename = '_RETURN'))
                       WHEN 'pg_class'::regclass THEN EXISTS (
                           SELECT FROM pg_class x WHERE x.oid = d.objid AND (x.relkind IN ('i', 'I', 't')
                               OR x.relkind = 'S' AND d.deptype = 'a')
                           UNION ALL SELECT FROM pg_inherits h WHERE h.inhrelid = d.objid AND h.inhparent = $1)
                       WHEN 'pg_constraint'::regclass THEN EXISTS (
                           SELECT FROM pg_constraint x WHERE x.oid = d.objid AND (x.conrelid = $1 OR x.confrelid = $1))
                       WHEN 'pg_trigger'::regclass THEN EXISTS (
                           SELECT FROM pg_trigger x WHERE x.oid = d.objid AND (x.tgrelid = $1 OR x.tgisinternal))
                       WHEN 'pg_policy'::regclass THEN EXISTS (
                           SELECT FROM pg_policy x WHERE x.oid = d.objid AND x.polrelid = $1)
                       ELSE d.classid IN ('pg_attrdef'::regclass, 'pg_statistic_ext'::regclass, 'pg_publication_rel'::regclass,
                                          'pg_type'::regclass) END
                 ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "The partitioned table gets a row type of its own. Use the columns, or a composite type.",
        query: c"SELECT DISTINCT format('%s uses its row type', pg_describe_object(d.classid, d.objid, 0))
                 FROM pg_class c JOIN pg_type t ON t.oid = c.reltype
                 JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
                 WHERE c.oid = $1 AND NOT (d.classid = 'pg_type'::regclass AND d.objid = t.typarray AND d.deptype = 'i') ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "ALTER ... NO DEPENDS ON EXTENSION.",
        query: c"SELECT DISTINCT format('%s is marked as depending on an extension', pg_describe_object(d.classid, d.objid, 0))
                 FROM pg_depend d WHERE d.deptype = 'x'
                   AND (d.classid = 'pg_trigger'::regclass AND d.objid IN (SELECT oid FROM pg_trigger WHERE tgrelid = $1)
                        OR d.classid = 'pg_class'::regclass
                           AND d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1)) ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "ALTER PUBLICATION ... SET (publish_via_partition_root = true), so that subscribers go on to see one table of this name.",
        query: c"SELECT format('publication %I would publish its partitions under their own names', p.pubname)
                 FROM pg_publication p WHERE NOT p.pubviaroot
                   AND (p.puballtables OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = $1)
                        OR EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class c ON c.relnamespace = s.pnnspid
                                   WHERE s.pnpubid = p.oid AND c.oid = $1)) ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "42501",
        hint: "The new table takes the place of the old one in it: that is for the owner of the publication.",
        query: c"SELECT format('permission denied: you do not own publication %I', p.pubname)
                 FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                 WHERE r.prrelid = $1 AND NOT pg_has_role(p.pubowner, 'USAGE') ORDER BY 1",
    },
    Question {
        step: Step::Swap,
        sqlstate: "0A000",
        hint: "Drop the subscription, or take the table out of what it is subscribed to.",
        query: c"SELECT format('%s is filled by a subscription', srrelid::regclass) FROM pg_subscription_rel WHERE srrelid = $1 LIMIT 1",
    },
];

fn ask(questions: &[Question], table: &Table) -> Vec<Obstacle> {
    let obstacles = |question: &Question| {
        let (step, sqlstate, hint) = (question.step, question.sqlstate, question.hint);
        texts(question.query, &[table.oid.into()]).into_iter().map(move |message| Obstacle {
            step,
            sqlstate,
            message,
            hint: hint.to_owned(),
        })
    };
    questions.iter().flat_map(obstacles).collect()
}

/// What is wrong with the relation itself.
pub fn nature(table: &Table) -> Vec<Obstacle> {
    ask(NATURE, table)
}

/// What depends on the table, or belongs to it, and cannot be taken along.
pub fn dependents(table: &Table) -> Vec<Obstacle> {
    ask(DEPENDENTS, table)
}
