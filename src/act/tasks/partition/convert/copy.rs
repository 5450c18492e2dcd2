//! Statements that give one table what another one has, made from the catalogs. `target` is a name as SQL text has it; it
//! need not exist yet. Inside a transaction, under a `search_path` of `pg_catalog`; locks nothing.

use perf_core::partition_convert::trigger_on;
use pgrx::pg_sys;

use super::facts::{oids, texts, Table};
use crate::act::runs::rows;
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{ddl, ident};

/// The table's own comment, what its columns are set to, row-level security, and grants.
pub fn properties(source: &Table, target: &str) -> Vec<String> {
    let queries = [
        // What a default of the schema has granted to others than the old table's.
        c"SELECT DISTINCT format('REVOKE ALL ON TABLE %s FROM %s', $2,
                        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
          FROM pg_class c JOIN pg_default_acl d ON d.defaclnamespace IN (0, c.relnamespace), aclexplode(d.defaclacl) a
          WHERE c.oid = $1 AND d.defaclobjtype = 'r' AND pg_get_userbyid(d.defaclrole) = current_user
            AND a.grantee <> d.defaclrole ORDER BY 1",
        c"SELECT format('REVOKE ALL ON TABLE %s FROM %I', $2, pg_get_userbyid(relowner)) FROM pg_class
          WHERE oid = $1 AND relacl IS NOT NULL",
        c"SELECT format('GRANT %s ON TABLE %s TO %s%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), $2,
                        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
          FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = $1
          GROUP BY a.grantee, a.is_grantable ORDER BY a.grantee, a.is_grantable",
        c"SELECT format('GRANT %s (%I) ON TABLE %s TO %s%s', a.privilege_type, c.attname, $2,
                        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
          FROM pg_attribute c, aclexplode(c.attacl) a
          WHERE c.attrelid = $1 AND c.attnum > 0 AND NOT c.attisdropped ORDER BY c.attnum, a.grantee, a.privilege_type",
        c"SELECT format('COMMENT ON TABLE %s IS %L', $2, obj_description($1, 'pg_class'))
          WHERE obj_description($1, 'pg_class') IS NOT NULL",
        c"SELECT format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', $2, attname, attstattarget) FROM pg_attribute
          WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND coalesce(attstattarget, -1) >= 0 ORDER BY attnum",
        // Not all that is in there: the server keeps reserved keys of its own beside these, such as the versions of columns.
        c"SELECT format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', $2, a.attname,
                        string_agg(format('%I = %L', o.option_name, o.option_value), ', ' ORDER BY o.option_name))
          FROM pg_attribute a, pg_options_to_table(a.attoptions) o
          WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
            AND o.option_name IN ('n_distinct', 'n_distinct_inherited')
          GROUP BY a.attnum, a.attname ORDER BY a.attnum",
        c"SELECT format('SECURITY LABEL FOR %I ON TABLE %s IS %L', provider, $2, label) FROM pg_seclabel
          WHERE classoid = 'pg_class'::regclass AND objoid = $1 AND objsubid = 0
          UNION ALL
          SELECT format('SECURITY LABEL FOR %I ON COLUMN %s.%I IS %L', s.provider, $2, a.attname, s.label)
          FROM pg_seclabel s JOIN pg_attribute a ON a.attrelid = s.objoid AND a.attnum = s.objsubid
          WHERE s.classoid = 'pg_class'::regclass AND s.objoid = $1",
        c"SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, $2,
                        CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                      WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                        (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                         FROM unnest(p.polroles) r),
                        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                        ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
          FROM pg_policy p WHERE p.polrelid = $1 ORDER BY p.polname",
        c"SELECT format('COMMENT ON POLICY %I ON %s IS %L', polname, $2, obj_description(oid, 'pg_policy')) FROM pg_policy
          WHERE polrelid = $1 AND obj_description(oid, 'pg_policy') IS NOT NULL ORDER BY polname",
        c"SELECT format('ALTER TABLE %s %s', $2, array_to_string(ARRAY[
                        CASE WHEN relrowsecurity THEN 'ENABLE ROW LEVEL SECURITY' END,
                        CASE WHEN relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END], ', '))
          FROM pg_class WHERE oid = $1 AND (relrowsecurity OR relforcerowsecurity)",
    ];
    queries.into_iter().flat_map(|query| texts(query, &[source.oid.into(), text(target)])).collect()
}

/// A trigger: its name, quoted, and the statements that make it on `target`.
pub fn triggers(source: &Table, target: &str) -> Vec<(String, Vec<String>)> {
    rows(
        c"SELECT quote_ident(tgname), pg_get_triggerdef(oid),
                 CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END,
                 quote_literal(obj_description(oid, 'pg_trigger'))
          FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname",
        &[source.oid.into()],
        |row| {
            let (name, state, comment) = (row.string(1), row.string(3), row.string(4));
            let mut statements = vec![trigger_on(&row.string(2), &source.full, target)];
            if !state.is_empty() {
                statements.push(format!("ALTER TABLE {target} {state} TRIGGER {name}"));
            }
            if !comment.is_empty() {
                statements.push(format!("COMMENT ON TRIGGER {name} ON {target} IS {comment}"));
            }
            (name, statements)
        },
    )
}

/// Whether a trigger of the table runs for each row.
pub fn has_row_triggers(source: &Table) -> bool {
    let found = oids(
        c"SELECT oid FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 1 = 1",
        &[source.oid.into()],
    );
    !found.is_empty()
}

/// The foreign keys of a table that it has by itself, as statements for `target`.
pub fn foreign_keys(source: &Table, target: &str) -> Vec<String> {
    texts(
        c"SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, conname, pg_get_constraintdef(oid)) FROM pg_constraint
          WHERE conrelid = $1 AND contype = 'f' AND conparentid = 0 ORDER BY conname",
        &[source.oid.into(), text(target)],
    )
    .into_iter()
    .chain(texts(
        c"SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname, $2, obj_description(oid, 'pg_constraint'))
          FROM pg_constraint WHERE conrelid = $1 AND contype = 'f' AND conparentid = 0
            AND obj_description(oid, 'pg_constraint') IS NOT NULL ORDER BY conname",
        &[source.oid.into(), text(target)],
    ))
    .collect()
}

/// The tables that foreign keys of a table refer to.
pub fn referenced(source: &Table) -> Vec<pg_sys::Oid> {
    oids(
        c"SELECT DISTINCT confrelid FROM pg_constraint WHERE conrelid = $1 AND contype = 'f' ORDER BY 1",
        &[source.oid.into()],
    )
}

/// The views that read a table themselves: each with the statement that defines it anew by the names it uses now.
pub fn views(source: &Table) -> Vec<(pg_sys::Oid, String)> {
    rows(
        c"SELECT v.oid, format('CREATE OR REPLACE VIEW %s %sAS %s', v.oid::regclass,
                        (SELECT 'WITH (' || string_agg(format('%s=%L', split_part(o, '=', 1),
                                                              substr(o, strpos(o, '=') + 1)), ', ') || ') '
                         FROM unnest(v.reloptions) o),
                        rtrim(pg_get_viewdef(v.oid), ';'))
          FROM pg_class v
          WHERE v.relkind = 'v' AND v.oid IN (
              SELECT r.ev_class FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
              WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)
          ORDER BY v.oid",
        &[source.oid.into()],
        |row| row.get::<pg_sys::Oid>(1).map(|oid| (oid, row.string(2))),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// Moves a table's place in publications to `target`: for when both have the names used here.
pub fn publications(source: &Table, source_name: &str, target: &str) -> Vec<String> {
    rows(
        c"SELECT format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, $2),
                 format('ALTER PUBLICATION %I ADD TABLE %s%s%s', p.pubname, $3,
                        (SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'
                         FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])),
                        ' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')')
          FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1 ORDER BY p.pubname",
        &[source.oid.into(), text(source_name), text(target)],
        |row| [row.string(1), row.string(2)],
    )
    .into_iter()
    .flatten()
    .collect()
}

/// Gives the sequences that columns of a table own to the same columns of `target`.
pub fn sequences(source: &Table, target: &str) -> Vec<String> {
    texts(
        c"SELECT format('ALTER SEQUENCE %s OWNED BY %s.%I', s.oid::regclass, $2, a.attname)
          FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
          JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
          WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
            AND d.deptype = 'a' ORDER BY s.relname",
        &[source.oid.into(), text(target)],
    )
}

/// An identity column and its sequence, which belongs to one table only and so is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the sequence.
    pub oid: pg_sys::Oid,
    /// The column, quoted.
    pub column: String,
    /// The sequence, qualified and quoted.
    pub sequence: String,
    /// `GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME ...)`.
    definition: String,
    /// Grants and comment of the sequence.
    properties: Vec<String>,
}

/// The identity columns of a table.
pub fn identities(source: &Table) -> Vec<Identity> {
    rows(
        c"SELECT quote_ident(a.attname), format('%I.%I', n.nspname, s.relname),
                 format('GENERATED %s AS IDENTITY (SEQUENCE NAME %I.%I START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s %s)',
                        CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, n.nspname, s.relname,
                        q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
                        CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END),
                 array_to_string(ARRAY(
                     SELECT DISTINCT format('REVOKE ALL ON SEQUENCE %I.%I FROM %s', n.nspname, s.relname,
                         CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)
                     FROM pg_default_acl f, aclexplode(f.defaclacl) x
                     WHERE f.defaclobjtype = 'S' AND f.defaclnamespace IN (0, s.relnamespace)
                       AND pg_get_userbyid(f.defaclrole) = current_user AND x.grantee <> f.defaclrole)
                 || ARRAY(
                     SELECT format('REVOKE ALL ON SEQUENCE %I.%I FROM %I', n.nspname, s.relname, pg_get_userbyid(s.relowner))
                     WHERE s.relacl IS NOT NULL)
                 || ARRAY(
                     SELECT format('GRANT %s ON SEQUENCE %I.%I TO %s%s', x.privilege_type, n.nspname, s.relname,
                         CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                         CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)
                     FROM aclexplode(s.relacl) x)
                 || ARRAY(
                     SELECT format('COMMENT ON SEQUENCE %I.%I IS %L', n.nspname, s.relname, obj_description(s.oid, 'pg_class'))
                     WHERE obj_description(s.oid, 'pg_class') IS NOT NULL), E'\\x01'), s.oid
          FROM pg_attribute a
          JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
                              AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
          JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
          JOIN pg_sequence q ON q.seqrelid = s.oid
          WHERE a.attrelid = $1 AND a.attidentity <> '' AND NOT a.attisdropped ORDER BY a.attnum",
        &[source.oid.into()],
        |row| Identity {
            oid: row.get::<pg_sys::Oid>(5).unwrap_or(pg_sys::InvalidOid),
            column: row.string(1),
            sequence: row.string(2),
            definition: row.string(3),
            properties: row.string(4).split('\u{1}').filter(|one| !one.is_empty()).map(str::to_owned).collect(),
        },
    )
}

impl Identity {
    /// Where its sequence stands. It is locked in ACCESS EXCLUSIVE: a number that is taken later would be given out twice.
    pub fn state(&self) -> String {
        let question = format!("SELECT concat(last_value, ', ', is_called::text) FROM {}", self.sequence);
        ddl::value::<Text>(&question).map_or_else(|| "1, false".to_owned(), |state| state.0)
    }

    /// Takes it from a table.
    pub fn drop(&self, table: &str) -> String {
        format!("ALTER TABLE {table} ALTER COLUMN {} DROP IDENTITY", self.column)
    }

    /// Gives it to a table, to go on from a state.
    pub fn add(&self, table: &str, state: &str) -> Vec<String> {
        let mut statements = vec![
            format!("ALTER TABLE {table} ALTER COLUMN {} ADD {}", self.column, self.definition),
            format!("SELECT pg_catalog.setval({}, {state})", ident::literal(&self.sequence)),
        ];
        statements.extend(self.properties.iter().cloned());
        statements
    }
}

/// Extended statistics of a table.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Schema and name, unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// What makes them again for another table.
    pub statements: Vec<String>,
}

/// The extended statistics of a table, to be made for `target`.
pub fn statistics(source: &Table, target: &str) -> Vec<Statistics> {
    let from = format!(" FROM {}", source.full);
    rows(
        c"SELECT n.nspname::text, s.stxname::text, pg_get_statisticsobjdef(s.oid),
                 format('%I.%I', n.nspname, s.stxname), coalesce(s.stxstattarget, -1)::int4,
                 quote_literal(obj_description(s.oid, 'pg_statistic_ext')),
                 CASE WHEN pg_get_userbyid(s.stxowner) <> current_user THEN quote_ident(pg_get_userbyid(s.stxowner)) END
          FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = $1 ORDER BY s.stxname",
        &[source.oid.into()],
        |row| {
            let (definition, full, comment, owner) = (row.string(3), row.string(4), row.string(6), row.string(7));
            let stem = definition.strip_suffix(&from).unwrap_or(&definition);
            let mut statements = vec![format!("{stem} FROM {target}")];
            if let Some(target @ 0..) = row.get::<i32>(5) {
                statements.push(format!("ALTER STATISTICS {full} SET STATISTICS {target}"));
            }
            if !comment.is_empty() {
                statements.push(format!("COMMENT ON STATISTICS {full} IS {comment}"));
            }
            if !owner.is_empty() {
                statements.push(format!("ALTER STATISTICS {full} OWNER TO {owner}"));
            }
            Statistics { schema: row.string(1), name: row.string(2), statements }
        },
    )
}

/// A valid index of a table, or a constraint with one.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its name, unquoted.
    pub name: String,
    /// What it is of: `PRIMARY KEY (id, at)`; `None` for an index by itself.
    pub constraint: Option<String>,
    /// As `pg_get_indexdef` has it.
    pub definition: String,
    /// Comments, as literals: of the index, of the constraint.
    pub comments: [Option<String>; 2],
}

/// The valid indexes of a table.
pub fn indexes(source: &Table) -> Vec<Index> {
    rows(
        c"SELECT i.relname::text, pg_get_constraintdef(c.oid), pg_get_indexdef(i.oid),
                 quote_literal(obj_description(i.oid, 'pg_class')), quote_literal(obj_description(c.oid, 'pg_constraint'))
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
          LEFT JOIN pg_constraint c ON c.conindid = x.indexrelid AND c.contype IN ('p', 'u') AND c.conrelid = x.indrelid
          WHERE x.indrelid = $1 AND x.indisvalid ORDER BY i.relname",
        &[source.oid.into()],
        |row| {
            let optional = |column: i32| Some(row.string(column)).filter(|text| !text.is_empty());
            Index {
                name: row.string(1),
                constraint: optional(2),
                definition: row.string(3),
                comments: [optional(4), optional(5)],
            }
        },
    )
}

/// How a table's old rows are told to subscribers; `index` names the one that is used.
pub enum ReplicaIdentity {
    /// By the primary key.
    Default,
    /// By nothing, or by all columns: what follows `REPLICA IDENTITY`.
    Fixed(&'static str),
    /// By this index, unquoted.
    Index(String),
}

/// The replica identity of a table.
pub fn replica_identity(source: &Table) -> ReplicaIdentity {
    let found = rows(
        c"SELECT c.relreplident::text, i.relname::text FROM pg_class c
          LEFT JOIN pg_index x ON x.indrelid = c.oid AND x.indisreplident LEFT JOIN pg_class i ON i.oid = x.indexrelid
          WHERE c.oid = $1",
        &[source.oid.into()],
        |row| (row.string(1), row.string(2)),
    );
    match found.into_iter().next() {
        Some((kind, _)) if kind == "f" => ReplicaIdentity::Fixed("FULL"),
        Some((kind, _)) if kind == "n" => ReplicaIdentity::Fixed("NOTHING"),
        Some((kind, index)) if kind == "i" && !index.is_empty() => ReplicaIdentity::Index(index),
        _ => ReplicaIdentity::Default,
    }
}

/// The tablespace that a table is in by its own choice, quoted.
pub fn tablespace(source: &Table) -> Option<String> {
    texts(
        c"SELECT quote_ident(t.spcname) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.oid = $1",
        &[source.oid.into()],
    )
    .into_iter()
    .next()
}

/// The columns of a table that can be written, quoted.
pub fn columns(source: &Table) -> String {
    texts(
        c"SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
          WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        &[source.oid.into()],
    )
    .concat()
}

/// Whether row-level security of a table holds for its owner as well.
pub fn force_row_security(source: &Table) -> bool {
    !oids(c"SELECT oid FROM pg_class WHERE oid = $1 AND relforcerowsecurity", &[source.oid.into()]).is_empty()
}
