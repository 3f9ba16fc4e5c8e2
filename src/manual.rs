//! Manual pages whose synopsis is the usage line of the help, not a list of every flag.

const SYNOPSIS: &str = ".SH SYNOPSIS\n";
const NEXT: &str = "\n.SH ";

/// `page`, as `clap_mangen` renders it, with `usage` as its synopsis: what clap prints behind
/// `Usage:`, one form on each line. A page without a synopsis stays as it is.
pub fn with_usage(page: &str, usage: &str) -> String {
    let Some((before, rest)) = page.split_once(SYNOPSIS) else {
        return page.to_owned();
    };
    let after = rest.find(NEXT).map_or("", |at| &rest[at..]);
    let usage = usage.trim_start_matches("Usage:").replace('-', "\\-");
    let forms: Vec<&str> = usage.lines().map(str::trim).collect();
    format!("{before}{SYNOPSIS}{}{after}", forms.join("\n.br\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_replaces_the_synopsis_alone() {
        let page = ".SH NAME\np\n.SH SYNOPSIS\n\\fBp\\fR [\\fB\\-x\\fR]\n.SH DESCRIPTION\nit\n";
        assert_eq!(
            with_usage(page, "Usage: p [OPTIONS]\n       p two-words"),
            ".SH NAME\np\n.SH SYNOPSIS\np [OPTIONS]\n.br\np two\\-words\n.SH DESCRIPTION\nit\n"
        );
        assert_eq!(
            with_usage(".SH SYNOPSIS\nold", "Usage: p"),
            ".SH SYNOPSIS\np"
        );
        assert_eq!(with_usage("no page", "Usage: p"), "no page");
    }
}
