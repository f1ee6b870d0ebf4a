#!/bin/sh
# lint.sh: what a reader may rely on and a compiler does not check. Silent and 0 when all is well.
set -u
bad=0
say() { echo "lint: $*" >&2; bad=1; }
files=$(git ls-files 2>/dev/null || find . -type f -not -path './build/*' -not -path './.git/*' | sed 's|^\./||')
code=$(echo "$files" | grep -E '\.(c|h|def)$')

# Layers: folder X includes "Y/..." only when src/LAYERS says so.
for f in $(echo "$code" | grep '^src/'); do
    folder=$(echo "$f" | cut -d/ -f2)
    allowed=$(sed -n "s/^$folder:[ ]*//p" src/LAYERS)
    grep -q "^$folder:" src/LAYERS || say "$f: folder $folder is not in src/LAYERS"
    for inc in $(sed -n 's/^#[ ]*include "\([^"]*\)".*/\1/p' "$f"); do
        case $inc in hadal.h) continue ;; esac
        to=${inc%%/*}
        [ "$to" = "$folder" ] && continue
        case " $allowed " in *" $to "* | *" $inc "*) ;; *) say "$f: includes \"$inc\", which src/LAYERS does not allow to $folder" ;; esac
    done
done

# The reference is an opinion of its own: it includes ref.h and libraries, nothing of src/ or include/.
for f in $(echo "$code" | grep '^ref/'); do
    ! grep -nE '^#[ ]*include "' "$f" | grep -v '"ref\.h"' >/dev/null || say "$f: includes something else than \"ref.h\" and libraries"
    ! grep -nE '^#[ ]*include <hadal\.h>' "$f" >/dev/null || say "$f: includes the engine's header"
done

# File names are unique among code.
echo "$code" | sed 's|.*/||' | sort | uniq -d | while read -r n; do echo "lint: file name $n stands twice" >&2; done
[ -z "$(echo "$code" | sed 's|.*/||' | sort | uniq -d)" ] || bad=1

# One place asks for memory; the library does not exit or print.
for f in $(echo "$code" | grep '^src/' | grep -v '^src/base/mem.c$'); do
    grep -nE '(^|[^a-z_>.])(malloc|calloc|realloc|free|strdup|strndup|posix_memalign|aligned_alloc)\(' "$f" | grep -v '^[0-9]*: \*' | while read -r l; do echo "lint: $f:$l (base/mem.h has it)" >&2; done
    ! grep -qE '(^|[^a-z_>.])(malloc|calloc|realloc|free|strdup|strndup|posix_memalign|aligned_alloc)\(' "$f" || bad=1
done
for f in $(echo "$code" | grep '^src/' | grep -v '^src/cli/' | grep -v '^src/base/err.c$'); do
    ! grep -nE '(^|[^a-z_])(exit|_exit|abort|printf|fprintf|puts|perror)\(' "$f" >/dev/null || say "$f: the library leaves printing and exiting to the program"
done

# Header guards follow the path; headers begin with what they are.
for f in $(echo "$code" | grep '^src/.*\.h$'); do
    case $f in *_body.h) continue ;; esac
    head -n 1 "$f" | grep -q "^/\* $(basename "$f"):" || say "$f: the first line is not \"/* $(basename "$f"): ...\""
    grep -qE '^#ifndef HD_[A-Z0-9_]+_H$' "$f" || say "$f: no guard HD_..._H"
done
for f in $(echo "$code" | grep -E '^(src|tests|bench|examples|ref)/.*\.c$'); do
    head -n 1 "$f" | grep -q "^/\* $(basename "$f"):" || say "$f: the first line is not \"/* $(basename "$f"): ...\""
done

# Text hygiene; no paths of a machine, no private registries.
for f in $(echo "$files" | grep -E '\.(c|h|def|sh|py|md|txt)$|Makefile$|^\.ci/'); do
    case $f in tests/data/* | tests/fuzz/*) continue ;; esac
    ! grep -nE '[ 	]+$' "$f" >/dev/null || say "$f: trailing white space"
    ! grep -nE '/(work|home|root)/[a-z]|file:///opt' "$f" >/dev/null || [ "$f" = tools/lint.sh ] || say "$f: a path of some machine"
    case $f in *.c | *.h) ! grep -n '	' "$f" >/dev/null || say "$f: a tab" ;; esac
done
exit $bad
