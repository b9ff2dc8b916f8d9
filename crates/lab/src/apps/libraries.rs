//! Which package has a library: the one whose name is most like the library's. Pure.

/// Libraries whose package is not named like them.
const UNLIKE: [(&str, &str); 1] = [("libz.so.1", "zlib1g")];

/// The packages that are asked for a library, the likeliest first: those of libraries, by how long
/// a beginning of their name is the library's.
pub fn likeliest<'a>(library: &str, packages: &'a [String]) -> Vec<&'a str> {
    let wanted = plain(library);
    let unlike = |package: &str| UNLIKE.contains(&(library, package));
    let alike = |package: &str| {
        let pairs = wanted.chars().zip(plain(package).chars().collect::<Vec<_>>());
        pairs.take_while(|(wanted, there)| wanted == there).count()
    };
    let mut likeliest: Vec<&str> = packages
        .iter()
        .map(String::as_str)
        .filter(|package| package.starts_with("lib") || unlike(package))
        .collect();
    // Stable: packages that are as like stay in the order of their package's list.
    likeliest.sort_by_key(|package| std::cmp::Reverse((unlike(package), alike(package))));
    likeliest
}

/// `libgssapi_krb5.so.2` is in `libgssapi-krb5-2`, `libk5crypto.so.3` in `libk5crypto3`.
fn plain(name: &str) -> String {
    name.replace(".so.", "").replace('_', "-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_names_are_found_first() {
        let packages: Vec<String> =
            "adduser libc6 libicu72 libgcc-s1 libgssapi-krb5-2 libssl3 libzstd1 tzdata zlib1g"
                .split(' ')
                .map(str::to_owned)
                .collect();
        for (library, first) in [
            ("libc.so.6", "libc6"),
            ("libicuuc.so.72", "libicu72"),
            ("libgssapi_krb5.so.2", "libgssapi-krb5-2"),
            ("libgcc_s.so.1", "libgcc-s1"),
            ("libzstd.so.1", "libzstd1"),
            ("libz.so.1", "zlib1g"),
        ] {
            assert_eq!(likeliest(library, &packages)[0], first, "{library}");
        }
        let all = likeliest("libcrypto.so.3", &packages).len();
        assert_eq!(all, 6, "in the end every package of a library is asked");
    }
}
