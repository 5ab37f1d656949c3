# Completion of phonectl for bash: source <(phonectl completion bash)
_phonectl() {
    local line IFS=$'\n'
    # The line is split at spaces here, because bash splits it at = and : too.
    local -a words
    IFS=' ' read -r -a words <<< "${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *' ' ]] && words+=("")
    COMPREPLY=()
    while IFS= read -r line; do
        # readline replaces only what stands after the last : or =
        COMPREPLY+=("${line#"${words[-1]%"${COMP_WORDS[COMP_CWORD]}"}"}")
    done < <(phonectl __complete -- "${words[@]:1}" 2>/dev/null)
    # Where phonectl has nothing to offer, bash offers files.
    [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default 2>/dev/null
}
complete -F _phonectl phonectl
